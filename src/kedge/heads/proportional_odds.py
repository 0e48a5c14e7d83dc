"""Proportional odds: ordered classes as parts of one line, cut at boundaries that the labels decide."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.heads._cumulative import even_boundaries, log_probabilities, softplus_inverse

info = Info(
    "Regression Models for Ordinal Data", "McCullagh", "Journal of the Royal Statistical Society B", 1980,
    "https://doi.org/10.1111/j.2517-6161.1980.tb01109.x", "derived",
)  # fmt: skip
ORDERED = True  # it takes the classes in their order
AFFINE = False  # its logits are not W·features + b


class ProportionalOdds(nn.Module):
    """Features f `[B, D]` to ln P(y = k) `[B, K]`, with P(y ≤ k) = σ(α_k + β·f) and one β for all boundaries.

    The classes are ordered, lowest first: a recipe says `ordered: [low, medium, high]`, and `arguments: {head:
    proportional_odds}`. What comes out are logarithms of probabilities that sum to 1, so cross-entropy is the
    likelihood, and a temperature, references and all that reads logits work as with any head. α rises by construction
    (α_(k+1) = α_k + softplus), so no probability is negative; it begins where all classes are equally likely. The
    direction β is the same at each boundary: what tells low from medium tells medium from high (`kedge.heads.Presto`
    is for where it does not).

    The logits are not affine in the features: `knn`, `mahalanobis` and `vim` are left out, `kedge adapt` and `head:
    probe` fit no such head. In half precision the last step is done in float32.

    Args:
        features: D.
        outputs: K, 2 or more; with 2 it is logistic regression.

    Raises:
        ValueError: for one class.

    Source: McCullagh, "Regression Models for Ordinal Data", Journal of the Royal Statistical Society B, 1980.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        start = even_boundaries(outputs, "proportional_odds")
        self.shared = nn.Linear(features, 1, bias=False)
        self.first = nn.Parameter(start[:1])
        self.rises = nn.Parameter(softplus_inverse(start.diff()))

    def boundaries(self) -> Tensor:
        """α `[K - 1]`, rising."""
        return torch.cat([self.first, self.first + F.softplus(self.rises).cumsum(0)])

    def forward(self, features: Tensor) -> Tensor:
        """ln P(y = k) `[B, K]`."""
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round boundaries together
            weight = self.shared.weight
            return log_probabilities(F.linear(features.to(weight.dtype), weight) + self.boundaries())
