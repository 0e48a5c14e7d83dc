"""Three experts on one body: for the shares of training, for equal ones and for reversed ones; their mean answers."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.experts import experts_of
from kedge.objectives._base import Objective, check_targets, check_weight
from kedge.objectives._prior import class_shares, shifted
from kedge.objectives._recording import recording
from kedge.objectives._views import bare

info = Info(
    "Self-Supervised Aggregation of Diverse Experts for Test-Agnostic Long-Tailed Recognition", "Zhang et al.",
    "NeurIPS", 2022, "https://arxiv.org/abs/2107.09249", "code",
)  # fmt: skip


class DiverseExperts(Objective):
    """CE(z¹, y) + CE(z² + log π, y) + CE(z³ + log π - τ log π̄, y), the mean over the images; 0 or more.

    π are the shares of the classes in training, π̄ the same numbers in the reversed order of rank: the most frequent
    class gets the smallest. Three experts thus learn the probabilities under the shares of training, under equal and
    under reversed ones; the model answers with the mean of their logits. It needs a network with three last layers,
    `--arguments '{heads: 3}'` with one of kedge's residual networks. Its temperature and class shares are those of no
    set: as with `BalancedSoftmax`, nothing else may correct for the classes.

    Our reading: the experts share the whole body and have linear last layers (the authors' have stages of their own and
    cosine layers). Learned weights at test time are `kedge.expert_weights`, which did harm. With equal shares
    and equal experts it is three times cross-entropy. An image without a label (masking) is shifted for none.

    Args:
        prior: the shares of the classes `[C]`, above 0, on any scale; None: as the labels have them.
        labels: those of the training images `[N]`.
        num_classes: C.
        tau: τ, how far the third expert goes.

    Raises:
        ValueError: for shares that are not above 0; for τ below 0; by `prepare` for a network without three experts;
            when called, for another number of outputs.
    """

    equal_classes = True
    reads_layers = True
    in_repr = ("tau",)
    shifts: Tensor

    def __init__(
        self,
        prior: Sequence[float] | None = None,
        labels: Tensor | None = None,
        num_classes: int | None = None,
        tau: float = 2.0,
    ) -> None:
        super().__init__()
        check_weight("tau", tau, "how far the third expert goes")
        self.tau = tau
        log_prior = class_shares(prior, labels, num_classes, "DiverseExperts").log()
        shifts = torch.stack([0 * log_prior, log_prior, log_prior - tau * reversed_ranks(log_prior)])
        self.register_buffer("shifts", shifts.float(), persistent=False)
        self._layer = ""

    def prepare(self, model: nn.Module) -> None:
        """Look for the experts."""
        self._layer, experts = experts_of(bare(model))
        if experts.heads != len(self.shifts):
            raise ValueError(f"DiverseExperts trains three experts, and the network has {experts.heads}: heads is 3")

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The sum of the three losses."""
        if not self._layer:
            self.prepare(model)
        with recording(model, [self._layer]) as outputs:
            mean = model(images)
        targets = check_targets(targets, mean)
        logits = outputs[self._layer].unflatten(1, (len(self.shifts), -1))
        own = shifted(model, logits, self.shifts, "DiverseExperts")
        losses = [F.cross_entropy(own[:, expert], targets) for expert in range(len(self.shifts))]
        names = ("loss_as_trained", "loss_equal", "loss_reversed")
        self.logged.update(zip(names, (loss.detach() for loss in losses), strict=True))
        return torch.stack(losses).sum()


def reversed_ranks(values: Tensor) -> Tensor:
    """The values `[C]` in the reversed order of rank: the largest has the place of the smallest, and so on."""
    order = values.argsort(stable=True)
    reverse = torch.empty_like(values)
    reverse[order] = values[order.flip(0)]
    return reverse
