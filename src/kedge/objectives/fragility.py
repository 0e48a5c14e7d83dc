"""Fragility: an exponential mean of the losses of a batch, which its worst images lead."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_targets, soft_targets

info = Info(
    "Fragility-aware Classification for Understanding Risk and Improving Generalization", "Yang et al.", "arXiv", 2025,
    "https://arxiv.org/abs/2502.13024", "abstract",
)  # fmt: skip


class Fragility(Objective):
    """k log mean exp(ℓ_i / k) over the batch, ℓ_i the loss of image i: k → ∞ gives their mean, k → 0 the largest.

    ℓ_i = KL(t_i ‖ p_i), p the softmax of the logits and t the target: for labels it is the cross-entropy. The entropy
    of a soft target, which no answer takes away, is left out, so that mixed images, smoothed labels and those that
    `Anchored` masks do not count as mistakes.

    It is the largest mean that another distribution P of the images can have, less k times how unlike it is:
    sup_P {E_P ℓ - k KL(P ‖ P̂)}. Its gradient is that of the mean with softmax(ℓ / k) in place of equal weights: images
    that are confidently wrong lead. Where labels are wrong, these are the wrong labels.

    Our reading of Yang et al., arXiv 2502.13024, of which the abstract was at hand: the metric `fragility_index` finds
    the k of a target, here k is stated and the loss is made small. It is also the tilted empirical risk of Li et al.,
    ICLR 2021, arXiv 2007.01162, with a tilt of 1 / k. The logarithm is taken of each batch, so the size of a batch has
    a part in it.

    Args:
        k: above 0, in nats.
        label_smoothing: share ε of the target that is spread evenly: (1 - ε) t + ε / C.

    Raises:
        ValueError: for a k that is not finite or not above 0, and label_smoothing out of range.
    """

    in_repr = ("k", "label_smoothing")

    def __init__(self, k: float = 2.0, label_smoothing: float = 0.0) -> None:
        super().__init__()
        if not (math.isfinite(k) and k > 0):
            raise ValueError(f"k is by how many nats a loss stands out, a number above 0, got {k}")
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.k, self.label_smoothing = k, label_smoothing

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The exponential mean, a scalar, 0 or more."""
        logits = model(images)
        targets = check_targets(targets, logits)
        wide, classes, share = torch.promote_types(logits.dtype, torch.float32), logits.shape[1], self.label_smoothing
        losses = F.cross_entropy(logits.to(wide), targets.to(wide) if targets.ndim == 2 else targets,
                                 label_smoothing=share, reduction="none")  # fmt: skip
        if targets.ndim == 2 or share:
            smooth = (1 - share) * soft_targets(targets, classes) + share / classes
            losses = losses - torch.special.entr(smooth.to(wide)).sum(1)
        return self.k * (torch.logsumexp(losses / self.k, 0) - math.log(len(losses)))
