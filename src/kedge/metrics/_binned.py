"""Base of the calibration errors over bins."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor

from kedge.metrics._base import Answers, Metric
from kedge.metrics._calibration import bin_sums, binned_error, resampled_error
from kedge.metrics._cross_fitted import CrossFitted

FEWEST = 4  # without bias they need two halves with something in each


class Fitted(Metric):
    """Base of the calibration errors whose interval is about what they are without bias."""

    unit = "%"
    better = "lower"
    part = "calibration"
    judged = False

    def fitted(self, sample: Answers) -> CrossFitted | None:
        """The error without bias; None where there is no such form."""
        return None

    def center(self, sample: Answers) -> float | None:
        fit = self._fit(sample)
        return None if fit is None else float(fit.value)

    def per_image(self, sample: Answers) -> Tensor | None:
        """How each image moves the error without bias: the plug-in errors of resamples are noise on top of noise."""
        fit = self._fit(sample)
        return None if fit is None else fit.influence - fit.influence.mean() + fit.value

    def _fit(self, sample: Answers) -> CrossFitted | None:
        return sample.once(self.fitted) if len(sample) >= FEWEST else None


class Binned(Fitted):
    """Base of the calibration errors over bins, see `kedge.metrics.calibration_error`."""

    norm: ClassVar[str] = "l1"
    binning: ClassVar[str] = "width"

    def value(self, sample: Answers) -> float:
        sums = bin_sums(sample["confidence"], sample.correct, sample.bins, self.binning)
        return float(binned_error(sums, self.norm))

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        confidence, correct = sample["confidence"], sample.correct
        return lambda weights: resampled_error(confidence, correct, weights, sample.bins, self.norm, self.binning)
