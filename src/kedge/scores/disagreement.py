"""Disagreement between references."""

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Single Model Uncertainty Estimation via Stochastic Data Centering", "Thiagarajan et al.", "NeurIPS", 2022,
    "https://arxiv.org/abs/2207.07235", "paper",
)  # fmt: skip


class Disagreement(Score):
    """Negative disagreement between references, -mean_c std_k sigmoid(logits_kc), at most 0: agreement is familiar.

    Thiagarajan et al., "Single Model Uncertainty Estimation via Stochastic Data Centering" (Δ-UQ), NeurIPS 2022,
    arXiv 2207.07235. Needs an anchored model with two or more references.
    """

    place = 5
    title = "disagreement"
    needs = ("uncertainty",)

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at most 0. Raises ValueError for outputs without uncertainty."""
        uncertainty: Tensor = self._take(outputs, "uncertainty")
        return -uncertainty.float()
