"""Nearness to the closest of a few directions per class, in features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kedge.anchoring.prototypes import nearest
from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Concept Decompositions for Large Sparse Text Data using Clustering", "Dhillon & Modha", "Machine Learning", 2001,
    "https://doi.org/10.1023/A:1007612920971", "derived",
)  # fmt: skip

STEPS = 20  # of k-means, at most
MOST = 512  # prototypes in all, where there are fewer classes
FEWEST = 3  # images that a prototype is the mean of, where the class has so many: no photo's features are stored


class Prototypes(Score):
    """The largest cosine max_k z · p_k, z = features / ‖features‖, with directions p_k of training images, in [-1, 1].

    As `KNN`, whose k = 1 is this with every training image as a prototype: here those of a class are brought together
    to a few by spherical k-means (Dhillon & Modha, "Concept Decompositions for Large Sparse Text Data using
    Clustering", Machine Learning 42, 2001), so that they are small enough to be part of a model. Each is the mean of
    three images or more, and of all of its class where that has fewer: no image's features are kept as they are, but of
    a class of one.

    Args:
        of_each: prototypes of each class, fewer where it has fewer than three times as many images, and where 512 for
            all classes together are fewer (then one of each at least).
        seed: of the images that k-means starts from.
    """

    place = 11
    title = "nearest prototype"
    needs = ("features",)
    fits = True

    def __init__(self, of_each: int = 16, seed: int = 0) -> None:
        if of_each < 1:
            raise ValueError(f"of_each counts prototypes, so it is at least 1, but it is {of_each}")
        self.of_each = of_each
        self.seed = seed
        self.directions: Tensor | None = None

    def fit(self, outputs: Outputs, labels: Tensor) -> "Prototypes":
        """Find the prototypes of the classes that there are images of; labels say of which each image is."""
        features, labels = self._training(outputs, labels)
        z, present = F.normalize(features), labels.unique().tolist()
        count = max(1, min(self.of_each, MOST // len(present)))
        draws = torch.Generator().manual_seed(self.seed)
        self.directions = torch.cat([_spherical_means(z[labels == label], count, draws) for label in present]).float()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` in [-1, 1]. Raises ValueError without features, RuntimeError before `fit`."""
        features: Tensor = self._take(outputs, "features")
        directions: Tensor = self._fitted(self.directions)
        return nearest(features, directions.to(features.device))


def _spherical_means(z: Tensor, count: int, draws: torch.Generator) -> Tensor:
    """`[K, D]`, K <= count, directions of length 1 to which directions `[N, D]` are near, `FEWEST` to each or more."""
    count = max(1, min(count, len(z) // FEWEST))
    means = z[torch.randperm(len(z), generator=draws)[:count].to(z.device)]
    own = torch.full((len(z),), -1, device=z.device)
    for _ in range(STEPS):
        before, own = own, (z @ means.T).argmax(1)
        if bool((own == before).all()):
            break
        sums = torch.zeros_like(means).index_add_(0, own, z)
        # One that nothing is nearest to stays where it is.
        means = torch.where(sums.norm(dim=1, keepdim=True) > 0, F.normalize(sums), means)
    own = (z @ means.T).argmax(1)
    sums = torch.zeros_like(means).index_add_(0, own, z)
    large = own.bincount(minlength=len(means)) >= FEWEST
    return F.normalize(sums[large] if bool(large.any()) else z.sum(0, keepdim=True))
