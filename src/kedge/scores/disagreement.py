"""Disagreement between references."""

from torch import Tensor

from kedge.scores.base import Score
from kedge.scores.outputs import Outputs


class Disagreement(Score):
    """Negative disagreement between references, -mean_c std_k sigmoid(logits_kc), at most 0: agreement is familiar.

    Thiagarajan et al., "Single Model Uncertainty Estimation via Stochastic Data Centering" (Δ-UQ), NeurIPS 2022,
    arXiv 2207.07235. Needs an anchored model with two or more references.
    """

    name = "disagreement"
    title = "disagreement"
    needs = ("uncertainty",)

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at most 0. Raises ValueError for outputs without uncertainty."""
        uncertainty: Tensor = self._take(outputs, "uncertainty")
        return -uncertainty.float()
