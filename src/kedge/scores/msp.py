"""Maximum softmax probability."""

from torch import Tensor

from kedge.catalog import Info
from kedge.confidence import log_odds
from kedge.scores._base import Outputs, Score

info = Info(
    "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks", "Hendrycks & Gimpel",
    "ICLR", 2017, "https://arxiv.org/abs/1610.02136", "code",
)  # fmt: skip


class MSP(Score):
    """Confidence p = max_c softmax(logits)_c, as its log odds log(p / (1 - p)).

    These rank images as p does, and go on where p is 1 in float32, as it is for many images of a network that was
    trained for long.

    Hendrycks & Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples in Neural Networks",
    ICLR 2017, arXiv 1610.02136.
    """

    place = 1
    title = "confidence (MSP)"

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at least -log(C - 1); 0 is a confidence of one half."""
        return log_odds(outputs.logits)
