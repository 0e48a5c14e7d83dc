"""Smooth calibration error: the gap smoothed by a kernel whose width is the error itself, without bins."""

from collections.abc import Callable

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers
from kedge.metrics._cross_fitted import CrossFitted, cross_fitted_smooth_error
from kedge.metrics._families import Fitted
from kedge.metrics._smooth import resampled_smooth_error, smooth_error

info = Info(
    "Smooth ECE: Principled Reliability Diagrams via Kernel Smoothing", "Błasiok & Nakkiran", "ICLR", 2024,
    "https://arxiv.org/abs/2309.12236", "code",
)  # fmt: skip


class SmoothECE(Fitted):
    """As ECE, without bins; compared without its bias."""

    label = "smooth calibration error"
    order = 40
    part = "clean"
    places = ("clean", "shift")
    summary = ("clean", "shift")
    compared = ("clean", "corrupted")
    judged = True
    unbiased = True
    words = "The calibration error without bins: the gap between confidence and accuracy, smoothed. 0 is perfect."
    convention = "calibration error smoothed by a kernel whose width is the error itself, no bins; interval as of ece"

    def value(self, sample: Answers) -> float:
        return float(smooth_error(sample["confidence"], sample.correct))

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        confidence, correct = sample["confidence"], sample.correct
        return lambda weights: resampled_smooth_error(confidence, correct, weights)

    def fitted(self, sample: Answers) -> CrossFitted:
        return cross_fitted_smooth_error(sample["confidence"], sample.correct, sample.splits)
