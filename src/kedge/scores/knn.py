"""Distance to the k-th nearest training image, in features."""

import torch
from torch import Tensor
from torch.nn import functional as F

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Out-of-Distribution Detection with Deep Nearest Neighbors", "Sun et al.", "ICML", 2022,
    "https://arxiv.org/abs/2204.06507", "code",
)  # fmt: skip

# Similarities held at once: 64 MB in float32.
AT_ONCE = 1 << 24


class KNN(Score):
    """Negative distance -‖z - z_(k)‖ to the k-th nearest training image, z = features / ‖features‖, in [-2, 0].

    Sun et al., "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022, arXiv 2204.06507. Their k is 50
    for CIFAR-10, 200 for CIFAR-100 and 1000 for ImageNet, with all training images. Exact search. Labels are not used.

    Args:
        k: which neighbour; None for one in a thousand of the training images that it is fitted to, which gives the
            paper's k for CIFAR-10 and, nearly, for ImageNet, and shrinks in proportion with a part of them.
    """

    place = 8
    title = "nearest neighbours (KNN)"
    needs = ("features",)
    fits = True

    def __init__(self, k: int | None = None) -> None:
        if k is not None and k < 1:
            raise ValueError(f"k counts neighbours, so it is at least 1, but it is {k}")
        self.k = k
        self._neighbour = 0
        self._bank: Tensor | None = None

    def fit(self, outputs: Outputs, labels: Tensor) -> "KNN":
        """Keep the normalised features of training images. Raises ValueError for fewer images than k."""
        features, _ = self._training(outputs, labels)
        self._neighbour = max(1, round(len(features) / 1000)) if self.k is None else self.k
        if len(features) < self._neighbour:
            raise ValueError(
                f"knn looks for the {self._neighbour}th nearest of {len(features)} training images; "
                "fit more, or a smaller k"
            )
        self._bank = F.normalize(features).float()
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` in [-2, 0]. Raises ValueError without features, RuntimeError before `fit`."""
        features = self._take(outputs, "features").float()
        bank: Tensor = self._fitted(self._bank)
        bank = self._bank = bank.to(features.device)
        z = F.normalize(features)
        distances = []
        for part in z.split(max(1, AT_ONCE // len(bank))):
            kth = (part @ bank.T).topk(self._neighbour, dim=1).indices[:, -1]
            # From the vectors, since 2 - 2 z·z' would cancel for near neighbours.
            distances.append((part - bank[kth]).norm(dim=1))
        return -torch.cat(distances) if distances else z.new_zeros(0)
