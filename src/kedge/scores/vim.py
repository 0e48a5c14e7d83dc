"""The virtual logit: what lies outside the directions that training features span."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score, precise

info = Info(
    "ViM: Out-of-Distribution with Virtual-Logit Matching", "Wang et al.", "CVPR", 2022,
    "https://arxiv.org/abs/2203.10807", "code",
)  # fmt: skip


class ViM(Score):
    """log Σ_c exp(logit_c) - α ‖residual‖, unbounded: the energy of the logits against a virtual logit.

    Wang et al., "ViM: Out-of-Distribution with Virtual-Logit Matching", CVPR 2022, arXiv 2203.10807. Features are
    centred at o = -W⁺ b, where the logits vanish (in least squares); the residual is what is left of f - o outside the
    first `dimension` principal directions of training images (about o); α makes the mean of the virtual logit that of
    the largest logit in training. The virtual class's probability rises as this score falls. Logits are W f + b of the
    network, without a temperature.

    Args:
        dimension: of the principal space; None for the authors' 1000 of 2048 or more features, or 512 of fewer, and
            half of them where there are fewer than 768.
    """

    place = 10
    title = "virtual logit (ViM)"
    needs = ("features", "head")
    fits = True

    def __init__(self, dimension: int | None = None) -> None:
        if dimension is not None and dimension < 1:
            raise ValueError(f"dimension is at least 1, but it is {dimension}")
        self.dimension = dimension
        self._learned: tuple[Tensor, Tensor, float] | None = None

    def fit(self, outputs: Outputs, labels: Tensor) -> "ViM":
        """Learn the residual space and α; labels are not used.

        Raises ValueError where training images leave no residual (no more of them than dimensions), and for a
        dimension that is not below the number of features.
        """
        features, _ = self._training(outputs, labels)
        weight, bias = (precise(part) for part in self._take(outputs, "head"))
        size = features.shape[1]
        dimension = self.dimension or principal_dimension(size)
        if dimension >= size:
            raise ValueError(f"vim's principal space has {dimension} dimensions, but there are only {size} features")
        origin = -torch.linalg.pinv(weight) @ bias
        centred = features - origin
        # Ascending eigenvalues: the first directions are those that training images fill least.
        residual = torch.linalg.eigh(centred.T @ centred / len(centred))[1][:, : size - dimension]
        lengths = (centred @ residual).norm(dim=1)
        if float(lengths.mean()) <= 1e-6 * float(centred.norm(dim=1).mean()):
            raise ValueError(
                f"vim finds nothing outside the {dimension} principal directions of {len(features)} training images; "
                "fit more images, or a smaller dimension"
            )
        alpha = float((features @ weight.T + bias).amax(dim=1).mean() / lengths.mean())
        self._learned = origin, residual, alpha
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`. Raises ValueError without features and head, RuntimeError before `fit`."""
        features: Tensor = self._take(outputs, "features")
        f = precise(features)
        weight, bias = (precise(part) for part in self._take(outputs, "head"))
        origin, residual, alpha = self._fitted(self._learned)
        origin, residual = origin.to(f.device), residual.to(f.device)
        energy = (f @ weight.T + bias).logsumexp(dim=1)
        return (energy - alpha * ((f - origin) @ residual).norm(dim=1)).float().to(features.device)


def principal_dimension(features: int) -> int:
    """The authors' dimension of the principal space for so many features (see `ViM`)."""
    return 1000 if features >= 2048 else 512 if features >= 768 else max(1, features // 2)
