"""Adapting layers at several depths of a frozen network, each with its own cross-entropy: their sum."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.layer_ensemble import layer_ensemble_of
from kedge.objectives._base import Objective, check_targets
from kedge.objectives._recording import recording
from kedge.objectives._views import bare

info = Info(
    "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views", "Roh et al.", "ICML", 2024,
    "https://arxiv.org/abs/2402.04644", "abstract",
)  # fmt: skip


class Levi(Objective):
    """Σ_l CE(z_l, y), z_l `[B, C]` the logits of adapting layer l: the loss of `kedge adapt MODEL --how levi`.

    The network is a `kedge.layer_ensemble.LayerEnsemble`, which answers with the mean of the layers' probabilities;
    trained by cross-entropy on that mean, layers that are wrong so far would learn least. The gradient of the small
    network is the sum over layers: with SGD, L equal ones train it as at L times the learning rate.

    Raises:
        ValueError: when training starts, for a model without adapting layers; when called, for targets that do not fit.

    Source: Roh et al., "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different Views", ICML 2024
        (arXiv 2402.04644), abstract and a public summary of the method.
    """

    reads_layers = True

    def prepare(self, model: nn.Module) -> None:
        """See that the model has adapting layers."""
        layer_ensemble_of(bare(model))

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The sum of the losses of the layers."""
        layer, _ = layer_ensemble_of(bare(model))
        with recording(model, [layer]) as outputs:
            mean = model(images)
        targets = check_targets(targets, mean)
        logits = outputs[layer].to(torch.promote_types(outputs[layer].dtype, torch.float32))
        return torch.stack([F.cross_entropy(each, targets) for each in logits.unbind(1)]).sum()
