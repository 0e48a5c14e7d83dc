"""Base of the calibration measures over the bins of each class."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from kedge.metrics._base import Answers, Metric
from kedge.metrics._classwise import brier_parts, class_resampler, class_sums, classwise_error

NAMES = ("ece_classwise", "brier_reliability", "brier_resolution", "brier_uncertainty")
_AT_ONCE = 1 << 24  # so many sums over classes and bins are held at once


def _statistics(sums: Tensor) -> dict[str, Tensor]:
    parts = brier_parts(sums, sums.new_zeros(()))
    return dict(zip(NAMES, (classwise_error(sums), *parts[:3]), strict=True))


def _values(sample: Answers) -> dict[str, Tensor]:
    return _statistics(class_sums(sample.probs, sample.labels, sample.bins))


def _resampler(sample: Answers) -> Callable[[Tensor], dict[str, Tensor]]:
    """From weights `[R, N]` to the four measures `[R]`; the last is kept, for all four are asked of the same."""
    sums = class_resampler(sample.probs, sample.labels, sample.bins)
    rows = max(1, _AT_ONCE // (3 * sample.probs.shape[1] * sample.bins))

    @lru_cache(maxsize=1)
    def statistics(weights: Tensor) -> dict[str, Tensor]:
        blocks = [_statistics(sums(block)) for block in weights.split(rows)]
        return {name: torch.cat([block[name] for block in blocks]) for name in NAMES}

    return statistics


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
