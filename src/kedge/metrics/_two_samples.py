"""Whether two samples differ: permutation tests of many numbers at once, and intervals of differences of shares."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.seeds import generator

_AT_ONCE = 1 << 22  # memberships drawn at once
_CLOSE = 1 - 1e-6  # a statistic this near the observed one counts as one that reaches it, whatever rounding does


def relabellings(first: int, second: int, n: int, seed: int) -> Iterator[Tensor]:
    """Blocks `[R, first + second]` of n random relabellings: 1 where a pooled item counts as of the second sample."""
    draws, total = generator(seed, "relabellings"), first + second
    while n > 0:
        count = min(n, max(1, _AT_ONCE // total))
        order = torch.rand(count, total, generator=draws).argsort(dim=1)
        yield (order < second).float()
        n -= count


def mean_rank_tests(first: Tensor, second: Tensor, n: int = 999, seed: int = 0) -> Tensor:
    """p values `[D]` of whether each column of `first` `[N, D]` and `second` `[M, D]` differs, all taken together.

    Permutation test of the mean rank, in the single-step max-T form of Westfall & Young (1993): under no difference at
    all, some p value is below alpha in at most a share alpha of the cases, however many columns there are and however
    they hang together. The smallest possible value is 1 / (n + 1).
    """
    ranks = _ranks(torch.cat([first, second]))
    return _adjusted(ranks, len(first), len(second), n, seed)


def share_tests(first: Tensor, second: Tensor, classes: int, n: int = 999, seed: int = 0) -> tuple[float, Tensor]:
    """(p of whether the shares of classes differ at all, p values `[C]` of each) of answers `[N]` and `[M]`.

    The first is a permutation test of the chi-square statistic, the others are as of `mean_rank_tests`.
    """
    pooled = torch.nn.functional.one_hot(torch.cat([first, second]), classes).float()
    expected = pooled.mean(0)
    weights = torch.where(expected > 0, expected, torch.ones_like(expected)).rsqrt()
    overall = joint_test((pooled - expected) * weights, len(first), len(second), n, seed)
    return overall, _adjusted(pooled, len(first), len(second), n, seed)


def joint_test(pooled: Tensor, first: int, second: int, n: int = 999, seed: int = 0) -> float:
    """p value of whether the means of the first and the last rows of `pooled` `[first + second, D]` differ.

    Permutation test of the squared distance between the two means; exact whatever the columns are, as long as nothing
    in them was made with regard to which row is of which sample.
    """
    rows = pooled - pooled.mean(0)
    observed = float(rows[first:].mean(0).square().sum())
    reached = 0
    for members in relabellings(first, second, n, seed):
        reached += int(((members @ rows / second).square().sum(1) >= observed * _CLOSE).sum())
    return (1 + reached) / (n + 1)


def _adjusted(columns: Tensor, first: int, second: int, n: int, seed: int) -> Tensor:
    spread = columns.std(0, correction=0)
    constant = spread <= 1e-12
    columns = (columns - columns.mean(0)) / torch.where(constant, torch.ones_like(spread), spread)
    columns[:, constant] = 0
    observed = columns[first:].mean(0).abs()
    reached = torch.zeros(columns.shape[1], dtype=torch.float64)
    for members in relabellings(first, second, n, seed):
        highest = (members @ columns / second).abs().amax(1, keepdim=True)
        reached += (highest >= observed * _CLOSE).sum(0)
    return torch.where(constant, torch.ones_like(reached), (1 + reached) / (n + 1))


def _ranks(columns: Tensor) -> Tensor:
    """Ranks of each column `[N, D]` from 0, of equals their mean."""
    ranks = torch.empty_like(columns, dtype=torch.float32)
    for place in range(columns.shape[1]):
        column = columns[:, place].contiguous()
        ordered = column.sort().values
        below, upto = (torch.searchsorted(ordered, column, right=right) for right in (False, True))
        ranks[:, place] = (below + upto - 1).float() / 2
    return ranks


def share_difference_interval(
    first: int, first_of: int, second: int, second_of: int, level: float = 0.95
) -> tuple[float, float]:
    """Interval of the second share less the first, in [-1, 1]: Newcombe's hybrid score method (Statistics in Medicine
    1998, method 10), from Wilson's intervals of both.
    """
    p, q = first / first_of, second / second_of
    (low, high), (lower, upper) = accuracy_interval(first, first_of, level), accuracy_interval(second, second_of, level)
    return q - p - math.hypot(q - lower, high - p), q - p + math.hypot(upper - q, p - low)
