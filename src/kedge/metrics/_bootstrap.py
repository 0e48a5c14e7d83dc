"""Bootstrap intervals (Efron, 1979), seeded and vectorised over resamples."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# Draws held at once: 16 million weights are 64 MB, whatever the size of the set.
_AT_ONCE = 1 << 24


def resamples(size: int, n: int = 1000, seed: int = 0) -> Iterator[Tensor]:
    """Blocks `[R, size]` float32, n rows in all: how often each sample was drawn, with replacement.

    The same (size, n, seed) gives the same rows, so several statistics of one set can share them: intervals
    of two models are then paired. Raises ValueError when `size` or `n` is below 1.
    """
    if size < 1 or n < 1:
        raise ValueError(f"a bootstrap needs at least one sample and one resample, but got {size} and {n}")
    generator = torch.Generator().manual_seed(seed)
    block = max(1, _AT_ONCE // size)
    for start in range(0, n, block):
        rows = min(block, n - start)
        drawn = torch.randint(size, (rows, size), generator=generator)
        drawn += torch.arange(rows)[:, None] * size
        yield torch.bincount(drawn.flatten(), minlength=rows * size).view(rows, size).float()


def interval(draws: Tensor, value: Tensor, level: float = 0.95) -> Tensor:
    """`[..., 2]` low and high from `draws` `[n, ...]` of a statistic that is `value` `[...]` on the set itself.

    The basic (reverse percentile) interval, `2 value - quantiles`, widened where needed to hold `value`.
    Resampling biases a calibration error upwards, and plain percentiles keep that bias: for a perfectly
    calibrated classifier they never held the true error of 0 in simulation, where this form did in over half
    the cases, and in 90 % at a true error of 0.03. For a mean the two agree.
    """
    tail = (1 - level) / 2
    draws, value = draws.double(), value.double()
    first, last = torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=torch.float64), dim=0)
    return torch.stack([torch.minimum(2 * value - last, value), torch.maximum(2 * value - first, value)], dim=-1)


def percentile_interval(draws: Tensor, value: float, size: int, tail: float = 0.025) -> tuple[float, float]:
    """Percentiles of `draws` `[n]` of a set of `size`, widened where needed to hold the `value` on the set itself.

    The rule of three, 3 / size to either side, where no resample differs.
    """
    low, high = torch.quantile(draws, torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    slack = 3 / size if low == high else 0.0
    return min(low, value) - slack, max(high, value) + slack


def bootstrap_interval(
    statistic: Callable[[Tensor], Tensor], size: int, n: int = 1000, seed: int = 0, level: float = 0.95
) -> Tensor:
    """Interval `[..., 2]` (low, high) of a statistic over `size` samples, not clipped.

    `statistic(weights)` takes `[R, size]` (how often each sample counts; see `resamples`) and returns `[R]`
    or `[R, S]`, one value per resample, e.g. `lambda w: w @ correct.float() / size` for accuracy, or
    `lambda w: resampled_error(confidence, correct, w)` for ECE. Blocks of resamples are handed over at once.
    """
    value = statistic(torch.ones(1, size))[0]
    return interval(torch.cat([statistic(weights) for weights in resamples(size, n, seed)]), value, level)
