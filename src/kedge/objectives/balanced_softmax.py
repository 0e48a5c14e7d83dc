"""Balanced softmax: cross-entropy that knows how often each class comes, so that the logits need not."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_targets, check_weight
from kedge.objectives._prior import class_shares, shifted

info = Info(
    "Balanced Meta-Softmax for Long-Tailed Visual Recognition", "Ren et al.", "NeurIPS", 2020,
    "https://arxiv.org/abs/2007.10740", "code",
)  # fmt: skip


class BalancedSoftmax(Objective):
    """CE(z + τ log π, y), π the shares of the classes in training: the mean over the images; 0 or more.

    With τ 1 softmax(z + log π) learns the probabilities under the shares of training, and so softmax(z), which is what
    the model answers, those under equal shares (Bayes). It is the balanced softmax of Ren et al., the training form of
    the logit adjustment of Menon et al. (ICLR 2021), and the loss of the second expert in SADE (arXiv 2107.09249, whose
    code was read). With equal shares it is cross-entropy.

    It corrects once, and alone: class weights, a sampler that draws classes equally often and the step `class_prior`
    would correct a second time, and are refused beside it. Where rare classes stay rare, their probabilities read too
    high. Images whose label masking took away are to answer evenly and are not shifted (ours: see `shifted`).

    Args:
        prior: the shares of the classes `[C]`, above 0, on any scale; None: as the labels have them.
        labels: those of the training images `[N]`.
        num_classes: C.
        tau: τ, how much of the shares is corrected for: 0 is cross-entropy, above 1 favours rare classes.

    Raises:
        ValueError: for shares that are not above 0, such as of a class without images; for τ below 0; when called, for
            another number of outputs.
    """

    equal_classes = True
    in_repr = ("tau",)
    shift: Tensor

    def __init__(
        self,
        prior: Sequence[float] | None = None,
        labels: Tensor | None = None,
        num_classes: int | None = None,
        tau: float = 1.0,
    ) -> None:
        super().__init__()
        check_weight("tau", tau, "how much of the shares is corrected for")
        self.tau = tau
        shares = class_shares(prior, labels, num_classes, "BalancedSoftmax")
        self.register_buffer("shift", (tau * shares.log()).float(), persistent=False)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy of the shifted logits."""
        logits = model(images)
        targets = check_targets(targets, logits)
        return F.cross_entropy(shifted(model, logits, self.shift, "BalancedSoftmax"), targets)
