"""Bases of the metrics that share how they are measured: over bins, over the bins of each class, by ranks."""

from collections.abc import Callable
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

from kedge.metrics._base import Answers, Bounds, Metric, metrics
from kedge.metrics._bootstrap import percentile_interval
from kedge.metrics._calibration import bin_sums, binned_error, resampled_error
from kedge.metrics._classwise import brier_parts, class_resampler, class_sums, classwise_error
from kedge.metrics._cross_fitted import CrossFitted
from kedge.metrics._selective import resampled_counts

FEWEST = 4  # without bias calibration errors need two halves with something in each
CLASS_MEASURES = ("ece_classwise", "brier_reliability", "brier_resolution", "brier_uncertainty")
_AT_ONCE = 1 << 24  # so many sums over classes and bins are held at once


class Fitted(Metric):
    """Base of the calibration errors whose interval is about what they are without bias."""

    unit = "%"
    better = "lower"
    part = "calibration"
    judged = False
    caution = (
        "A calibration error (ECE) of a calibrated model is above 0 on few images; its interval is of the error "
        "without that, and so lies mostly below the value."
    )

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


class ClassBins(Metric):
    """Base of the measures that need the probabilities of all classes."""

    part = "calibration"
    judged = False
    probs = True

    def value(self, sample: Answers) -> float:
        return float(sample.once(_values)[self.name])

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        statistics = sample.once(_resampler)
        return lambda weights: statistics(weights)[self.name]


def _statistics(sums: Tensor) -> dict[str, Tensor]:
    parts = brier_parts(sums, sums.new_zeros(()))
    return dict(zip(CLASS_MEASURES, (classwise_error(sums), *parts[:3]), strict=True))


def _values(sample: Answers) -> dict[str, Tensor]:
    return _statistics(class_sums(sample.probs, sample.labels, sample.bins))


def _resampler(sample: Answers) -> Callable[[Tensor], dict[str, Tensor]]:
    """From weights `[R, N]` to the four measures `[R]`; the last is kept, for all four are asked of the same."""
    sums = class_resampler(sample.probs, sample.labels, sample.bins)
    rows = max(1, _AT_ONCE // (3 * sample.probs.shape[1] * sample.bins))

    @lru_cache(maxsize=1)
    def statistics(weights: Tensor) -> dict[str, Tensor]:
        blocks = [_statistics(sums(block)) for block in weights.split(rows)]
        return {name: torch.cat([block[name] for block in blocks]) for name in CLASS_MEASURES}

    return statistics


class Ranked(Metric):
    """Base: images are ranked by the log odds of their confidence."""

    unit = "%%"
    better = "lower"
    part = "selective"
    summary = ("selective",)
    compared = ("clean",)

    def area(self, answered: Tensor, wrong: Tensor) -> Tensor:
        """`[R]` from counts `[R, G]` at falling thresholds; the last is of all images."""
        raise NotImplementedError

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        areas = sample.once(_areas)
        return lambda weights: areas(weights)[self.name]

    def bounds(self, draws: Tensor, value: float, center: float, size: int) -> Bounds:
        return percentile_interval(draws, value, size)


def _areas(sample: Answers) -> Callable[[Tensor], dict[str, Tensor]]:
    """From weights `[R, N]` to `[R]` areas of every metric of this kind; the last are kept, for all are asked of them.

    The counts that they are made from are as large as the weights, and there are those of a few resamples at a time.
    """
    counts = resampled_counts(sample["log_odds"], sample.correct)
    ranked = [metric for metric in metrics("selective") if isinstance(metric, Ranked)]

    @lru_cache(maxsize=1)
    def areas(weights: Tensor) -> dict[str, Tensor]:
        blocks = [[metric.area(answered, wrong) for metric in ranked] for answered, wrong in counts(weights)]
        return {metric.name: torch.cat(parts) for metric, parts in zip(ranked, zip(*blocks, strict=True), strict=True)}

    return areas
