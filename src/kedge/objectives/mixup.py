"""Mixup: images and targets mixed with those of another image of the batch, or of several."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, soft_targets
from kedge.objectives._mixing import Mixing
from kedge.objectives._views import num_outputs

info = Info(
    "mixup: Beyond Empirical Risk Minimization", "Zhang et al.", "ICLR", 2018, "https://arxiv.org/abs/1710.09412",
    "code",
)  # fmt: skip


class Mixup(Mixing):
    """Train on Σ_k w_k x_π_k(i) with targets mixed alike, w ~ Dirichlet(α, ..., α), one draw for the batch.

    π_1 leaves every image in its place, and each further π_k is a permutation of the batch, drawn anew. Two points are
    Mixup (Zhang et al., arXiv 1710.09412): λ x_i + (1 - λ) x_j, λ ~ Beta(α, α). More of them are d-Mixup, d =
    points - 1: Chidambaram & Ge, "On the Limitations of Temperature Scaling for Distributions with Overlaps", ICLR
    2024, arXiv 2306.00740, checked against the authors' code, where α is 1. Cross-entropy is linear in the target, so
    that of the mixed target is their Σ_k w_k CE(·, y_π_k); of other inner losses it is the loss of the mixed target.

    A network that is trained so rarely becomes surer than it should: where classes overlap, or labels are wrong, it is
    calibrated without a temperature about as well as one that remembers its labels is with one. The more points, the
    less sure it becomes; with clean labels five are too many.

    Outside `Anchored` the references are drawn from the mixed images, as in the authors' ImageNet recipe.

    Args:
        inner: the loss; it takes soft targets `[B, C]`.
        alpha: of the Beta or Dirichlet distribution, above 0; 1 is uniform.
        points: how many images make one, 2 or more.
        generator: of the draws; None: torch's own.

    Raises:
        ValueError: for an alpha that is not above 0, points that are no whole number or below 2, and an inner loss that
            takes no mixed targets.
    """

    in_repr = ("alpha", "points")

    def __init__(
        self, inner: Objective, alpha: float = 1.0, generator: torch.Generator | None = None, points: int = 2
    ) -> None:
        super().__init__(inner, alpha, generator)
        if isinstance(points, bool) or not isinstance(points, int) or points < 2:
            raise ValueError(f"points is how many images make one, a whole number, 2 or more, got {points!r}")
        self.points = points

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss on mixed images and targets."""
        first, *others = self._shares(self.points).to(images.device)
        soft = soft_targets(targets, num_outputs(model))
        mixed, target = first.to(images.dtype) * images, first * soft
        for share in others:
            partner = self._partners(len(images), images.device)
            mixed = mixed + share.to(images.dtype) * images[partner]
            target = target + share * soft[partner]
        return self.inner(model, mixed, target)
