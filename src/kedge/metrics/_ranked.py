"""Base of the measures of answering in the order of confidence."""

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from kedge.metrics._base import Answers, Bounds, Metric, metrics

_AT_ONCE = 1 << 21  # resamples worked on at once hold this many counts


def _areas(sample: Answers) -> Callable[[Tensor], dict[str, Tensor]]:
    """From weights `[R, N]` to `[R]` areas of every metric of this kind; the last are kept, for all are asked of them.

    The counts that they are made from are as large as the weights, and kept of a few resamples at a time.
    """
    odds, correct = sample["log_odds"], sample.correct
    order = odds.argsort(descending=True)
    wrong = (~correct)[order].float()
    ends = torch.unique_consecutive(odds[order], return_counts=True)[1].cumsum(0) - 1
    rows = max(1, _AT_ONCE // len(order))
    ranked = [metric for metric in metrics("selective") if isinstance(metric, Ranked)]

    @lru_cache(maxsize=1)
    def areas(weights: Tensor) -> dict[str, Tensor]:
        blocks: dict[str, list[Tensor]] = {metric.name: [] for metric in ranked}
        for drawn in (block[:, order] for block in weights.split(rows)):
            answered, mistaken = (x.cumsum(1)[:, ends].double() for x in (drawn, drawn * wrong))
            for metric in ranked:
                blocks[metric.name].append(metric.area(answered, mistaken))
        return {name: torch.cat(parts) for name, parts in blocks.items()}

    return areas


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
        """Percentiles, widened where needed to hold the value; the rule of three where no resample differs."""
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        slack = 3 / size if low == high else 0.0
        return min(low, value) - slack, max(high, value) + slack
