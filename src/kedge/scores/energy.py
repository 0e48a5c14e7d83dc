"""Negative free energy."""

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Energy-based Out-of-distribution Detection", "Liu et al.", "NeurIPS", 2020, "https://arxiv.org/abs/2010.03759",
    "code",
)  # fmt: skip


class Energy(Score):
    """Negative free energy, T · log Σ_c exp(logit_c / T), unbounded.

    Liu et al., "Energy-based Out-of-distribution Detection", NeurIPS 2020, arXiv 2010.03759: their energy is the
    negative of this, so that here too higher = more in-distribution.
    """

    place = 3
    title = "energy"
    needs = ("unnormalised",)

    def __init__(self, temperature: float = 1.0) -> None:
        if not temperature > 0:
            raise ValueError(f"temperature must be positive, but it is {temperature}")
        self.temperature = temperature

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`. Raises ValueError for the outputs of an ensemble."""
        self._check_unnormalised(outputs.of_members)
        return self.temperature * (outputs.logits.float() / self.temperature).logsumexp(dim=1)
