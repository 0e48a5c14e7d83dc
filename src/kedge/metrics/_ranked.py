"""Base of the measures of answering in the order of confidence."""

from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import Tensor

from kedge.metrics._base import Answers, Bounds, Metric

_AT_ONCE = 1 << 21  # resamples worked on at once hold this many counts


def counted(sample: Answers) -> Callable[[Tensor], Iterable[tuple[Tensor, Tensor]]]:
    """From weights `[R, N]` to blocks of (answered, wrong among them) `[r, G]` float64 at falling confidences."""
    odds, correct = sample["log_odds"], sample.correct
    order = odds.argsort(descending=True)
    wrong = (~correct)[order].float()
    ends = torch.unique_consecutive(odds[order], return_counts=True)[1].cumsum(0) - 1
    rows = max(1, _AT_ONCE // len(order))

    @lru_cache(maxsize=1)
    def counts(weights: Tensor) -> list[tuple[Tensor, Tensor]]:
        drawn = (block[:, order] for block in weights.split(rows))
        return [(w.cumsum(1)[:, ends].double(), (w * wrong).cumsum(1)[:, ends].double()) for w in drawn]

    return counts


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
        counts = sample.once(counted)
        return lambda weights: torch.cat([self.area(*block) for block in counts(weights)])

    def bounds(self, draws: Tensor, value: float, center: float, size: int) -> Bounds:
        """Percentiles, widened where needed to hold the value; the rule of three where no resample differs."""
        low, high = torch.quantile(draws, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
        slack = 3 / size if low == high else 0.0
        return min(low, value) - slack, max(high, value) + slack
