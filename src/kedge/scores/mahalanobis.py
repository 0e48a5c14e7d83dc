"""Mahalanobis distance to the nearest class."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score, precise

info = Info(
    "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", "Lee et al.",
    "NeurIPS", 2018, "https://arxiv.org/abs/1807.03888", "code",
)  # fmt: skip

# Directions of less than this share of the largest variance are rounding.
CUTOFF = 1e-10


class Mahalanobis(Score):
    """Negative squared distance to the nearest class mean, -min_c (z - μ_c)ᵀ Σ⁺ (z - μ_c), at most 0.

    Lee et al., "A Simple Unified Framework for Detecting Out-of-Distribution Samples and Adversarial Attacks", NeurIPS
    2018, arXiv 1807.03888: the features of the last layer alone, without their input perturbation. Σ is the covariance
    round the class means, shared by all classes and divided by the number of images. Where it is singular, which it is
    with fewer images than features, the pseudo-inverse is taken: directions without variance in training do not count.

    Args:
        relative: subtract from each distance that to the mean and covariance of all images, without classes: the
            relative distance of Ren et al., "A Simple Fix to Mahalanobis Distance for Improving Near-OOD Detection",
            arXiv 2106.09022. Unbounded.
        shrinkage: mix Σ with a multiple of the identity of the same trace, (1 - s) Σ + s tr(Σ)/D I, s in [0, 1]:
            more than 0 lets directions without variance count.
    """

    place = 9
    title = "Mahalanobis distance"
    needs = ("features",)
    fits = True

    def __init__(self, relative: bool = False, shrinkage: float = 0.0) -> None:
        if not 0 <= shrinkage <= 1:
            raise ValueError(f"shrinkage is between 0 and 1, but it is {shrinkage}")
        self.relative = relative
        self.shrinkage = shrinkage
        self._means: Tensor | None = None
        self._whitening: Tensor | None = None
        self._background: tuple[Tensor, Tensor] | None = None

    def fit(self, outputs: Outputs, labels: Tensor) -> "Mahalanobis":
        """Learn means and covariance; classes without an image have no mean, and so attract nothing.

        Raises ValueError where no two images of a class differ, as with one image for each.
        """
        features, labels = self._training(outputs, labels)
        present, own = labels.unique(return_inverse=True)
        counts = own.bincount().double()
        sums = features.new_zeros(len(present), features.shape[1]).index_add_(0, own, features)
        means = sums / counts[:, None]
        within = features - means[own]
        if not bool((within != 0).any()):
            raise ValueError(
                f"mahalanobis needs images that differ within a class, but the {len(features)} training images of "
                f"{len(present)} classes do not; fit more images"
            )
        self._means, self._whitening = means, self._whiten(within)
        middle = features.mean(0)
        self._background = (middle, self._whiten(features - middle)) if self.relative else None
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`. Raises ValueError without features, RuntimeError before `fit`."""
        features: Tensor = self._take(outputs, "features")
        z = precise(features)
        means, whitening = (self._fitted(t).to(z.device) for t in (self._means, self._whitening))
        # In float64, where expanding the square loses nothing that matters.
        away = torch.cdist((z - means[0]) @ whitening, (means - means[0]) @ whitening)
        distance = away.square().amin(dim=1)
        if self._background is not None:
            middle, white = (t.to(z.device) for t in self._background)
            distance = distance - ((z - middle) @ white).square().sum(1)
        return -distance.float().to(features.device)

    def _whiten(self, centred: Tensor) -> Tensor:
        """`[D, R]`, V λ^(-1/2): squared lengths after it are distances by the (pseudo-)inverse covariance."""
        covariance = centred.T @ centred / len(centred)
        size = len(covariance)
        even = torch.eye(size, dtype=covariance.dtype, device=covariance.device) * (covariance.trace() / size)
        values, vectors = torch.linalg.eigh((1 - self.shrinkage) * covariance + self.shrinkage * even)
        significant = values > CUTOFF * values[-1]
        return vectors[:, significant] / values[significant].sqrt()
