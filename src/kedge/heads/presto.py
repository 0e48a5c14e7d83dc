"""PRESTO: ordered classes whose boundaries have directions of their own, drawn towards a common one."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.heads._cumulative import even_boundaries, log_probabilities, softplus_inverse

info = Info(
    "Predicting Rare Events by Shrinking Towards Proportional Odds", "Faletto and Bien", "ICML", 2023,
    "https://arxiv.org/abs/2305.18700", "abstract",
)  # fmt: skip
ORDERED = True  # it takes the classes in their order
AFFINE = False  # its logits are not W·features + b


class Presto(nn.Module):
    """Features f `[B, D]` to ln P(y = k) `[B, K]`, with P(y ≤ k) = σ(α_k + β_k·f): a β_k for every boundary.

    The classes are ordered, lowest first: a recipe says `ordered: [low, medium, high]` and `arguments: {head: presto}`.
    On its own the head is a cumulative model with free directions; the objective `kedge.objectives.Presto` has the
    penalty λ Σ_k ‖β_(k+1) - β_k‖₁ that lets a rare last class borrow from more frequent boundaries. It begins with
    equal directions, as `kedge.heads.ProportionalOdds`. The weights are β_1 and the differences from one boundary to
    the next: what is shrunk then has weights of its own, and what is shared learns as if it were not there.

    Boundaries with directions of their own can cross, where a probability would be negative: there the class has a
    factor of 1e-6, and the softmax of what comes out sums to 1 again (the authors' code stops). `crossed` says of which
    images that is so.

    The logits are not affine in the features: `knn`, `mahalanobis` and `vim` are left out, `kedge adapt` and `head:
    probe` fit no such head. In half precision the last step is done in float32.

    Args:
        features: D.
        outputs: K, 2 or more; with 2 it is logistic regression.

    Attributes:
        differences: β_(k+1) - β_k, `[K - 2, D]`.

    Raises:
        ValueError: for one class.

    Source: Faletto and Bien, "Predicting Rare Events by Shrinking Towards Proportional Odds", ICML 2023, arXiv
        2305.18700.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        start = even_boundaries(outputs, "presto")
        self.shared = nn.Linear(features, 1, bias=False)
        self.differences = nn.Parameter(torch.zeros(outputs - 2, features))
        self.first = nn.Parameter(start[:1])
        self.rises = nn.Parameter(softplus_inverse(start.diff()))

    def directions(self) -> Tensor:
        """β `[K - 1, D]`."""
        first = self.shared.weight
        return torch.cat([first, first + self.differences.cumsum(0)])

    def cumulative(self, features: Tensor) -> Tensor:
        """The logits of P(y ≤ k) `[B, K - 1]`."""
        boundaries = torch.cat([self.first, self.first + F.softplus(self.rises).cumsum(0)])
        with torch.autocast(features.device.type, enabled=False):  # bfloat16 would round boundaries together
            directions = self.directions()
            return F.linear(features.to(directions.dtype), directions) + boundaries

    def crossed(self, features: Tensor) -> Tensor:
        """Whether two boundaries cross, `[B]` bool, of features `[B, D]`."""
        return (self.cumulative(features).diff(dim=1) < 0).any(1)

    def forward(self, features: Tensor) -> Tensor:
        """ln P(y = k) `[B, K]`, where no boundaries cross; else up to a constant."""
        return log_probabilities(self.cumulative(features))
