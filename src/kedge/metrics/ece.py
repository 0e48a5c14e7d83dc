"""Expected calibration error of the top prediction, over bins of equal width."""

from typing import ClassVar

from kedge.catalog import Info
from kedge.metrics._base import Answers
from kedge.metrics._cross_fitted import CrossFitted, cross_fitted_error
from kedge.metrics._families import Binned

info = Info(
    "On Calibration of Modern Neural Networks", "Guo et al.", "ICML", 2017, "https://arxiv.org/abs/1706.04599", "paper"
)


class ECE(Binned):
    """How far accuracy is from confidence, averaged over bins of confidence; compared without its bias."""

    label = "calibration error (ECE)"
    order = 30
    part = "clean"
    places = ("clean", "shift")
    summary = ("clean", "shift", "sets")
    compared = ("clean", "corrupted")
    claims = "Calibration error"
    judged = True
    unbiased = True
    diagram = "ECE"
    phrases: ClassVar = {
        "clean": "its stated confidence differs from its accuracy by {} points (ECE)",
        "shift": "a calibration error of {} points",
    }
    words = (
        "How far the confidence is from the truth. Of all answers given with 80 % confidence, 80 % should be right; "
        "the error is the average distance from that, in percentage points. 0 is perfect. (Equal bins of confidence, "
        "over all images together. On few images even a perfect model reads above 0, the more the less sure it is; "
        "the interval is of the error without that, and models are compared without it.)"
    )
    convention = (
        "expected calibration error of the top prediction, equal-width bins, pooled over the set; interval: "
        "bootstrap of the error without its bias (cross-fitted), by which models are compared"
    )

    def fitted(self, sample: Answers) -> CrossFitted:
        return cross_fitted_error(sample["confidence"], sample.correct, sample.bins, splits=sample.splits)
