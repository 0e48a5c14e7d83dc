"""Maximum softmax probability."""

from torch import Tensor

from kedge.scores.base import Score
from kedge.scores.outputs import Outputs


class MSP(Score):
    """Confidence, max_c softmax(logits)_c, in [1/C, 1].

    Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
    ICLR 2017, arXiv 1610.02136.
    """

    name = "msp"
    title = "confidence (MSP)"

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` in [1/C, 1]."""
        return outputs.logits.float().softmax(dim=1).amax(dim=1)
