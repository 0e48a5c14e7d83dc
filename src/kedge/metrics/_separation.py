"""The detection metrics with their bootstrap intervals, of one set and of groups of sets."""

from collections.abc import Callable, Mapping
from typing import ClassVar

import torch
from torch import Tensor

from kedge.metrics._base import Bounds, Detection, Separation, metrics
from kedge.metrics._bootstrap import resamples
from kedge.metrics._detection import (
    accepted_at,
    aupr_in,
    aupr_out,
    average_precision,
    both_sides,
    fpr95,
    logit_interval,
    operating_point,
)
from kedge.metrics._results import AtThreshold, Triple

DETECTION = ("auroc", "aupr_in", "aupr_out", "fpr95")
USUAL = 0.95  # of the familiar images are to pass
# Resamples worked on at once hold this many counts: 16 MB in float32.
_AT_ONCE = 1 << 22
_Z = 1.959964  # 95 %
# Both sides are resampled, each by its own stream.
_OTHER_STREAM = 1_000_003


def detection_summary(inside: Tensor, outside: Tensor, resamples: int = 1000, seed: int = 0) -> dict[str, Triple]:
    """`auroc`, `aupr_in`, `aupr_out`, `fpr95`, each as (value, low, high): 95 % intervals, in [0, 1].

    `inside` `[N]` scores of in-distribution inputs (the positive class but for `aupr_out`), `outside` `[M]` of the
    others, higher = more in-distribution. DeLong's interval on the logit scale for `auroc`, the bootstrap for the
    others (see the functions of these names); low and high are None when `resamples` is 0. Raises ValueError for NaN
    and empty sets.
    """
    sample = Separation(inside, outside, resamples, seed)
    measured = (m for m in metrics("ood") if isinstance(m, Detection) and m.applies(sample))
    estimates = ((metric.name, metric.of(sample)) for metric in measured)
    return {name: (e.value, e.low, e.high) for name, e in estimates if e.value is not None}


class Resampled(Detection):
    """Base of those whose interval is from resamples of both sides, which all of them share."""

    def interval(self, sample: Separation, value: float) -> Bounds:
        draws = sample.once(_draws)[:, DETECTION.index(self.name)]
        return _ends(draws, value, min(sample.inside.numel(), sample.outside.numel()))


class AtRecall(Resampled):
    """Base of the false positives at a threshold that keeps a fixed share of the familiar images.

    Attributes:
        recall: the share; None: the one that the sample was asked for.
    """

    recall: ClassVar[float | None] = None
    better = "lower"

    def of(self, sample: Separation) -> AtThreshold:
        """The share with its interval, the threshold and both counts."""
        recall = self._recall(sample)
        point = operating_point(sample.inside, sample.outside, recall)
        low, high = self.interval(sample, point.fpr) if sample.n else (None, None)
        return AtThreshold(point.fpr, low, high, recall, *point[1:], note=point.note(recall))

    def interval(self, sample: Separation, value: float) -> Bounds:
        recall = self._recall(sample)
        usual = recall == USUAL
        draws = sample.once(_draws) if usual else detection_draws(
            sample.inside, sample.outside, sample.n, sample.seed, recall=recall
        )  # fmt: skip
        return _ends(draws[:, DETECTION.index("fpr95")], value, min(sample.inside.numel(), sample.outside.numel()))

    def _recall(self, sample: Separation) -> float:
        recall = sample.tpr if self.recall is None else self.recall
        assert recall is not None
        return recall


def _draws(sample: Separation) -> Tensor:
    return detection_draws(sample.inside, sample.outside, sample.n, sample.seed)


def grouped(
    inside: Tensor,
    outside: Mapping[str, Tensor],
    groups: Mapping[str, str | None],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, Triple]]:
    """{group: {metric: (value, low, high)}}: the unweighted mean over the sets of each group.

    That is how OpenOOD 1.5 averages its near and its far sets (Zhang et al., arXiv 2306.09301): each set counts the
    same whatever its size, and scores are never pooled. `outside` has scores `[M]` per set, `groups` the group of
    each set, e.g. `{"cifar100": "near", "mnist": "far"}`; a set without a group is left out. The interval resamples
    `inside` `[N]` once for all sets of a group, and every set for itself.
    """
    means: dict[str, dict[str, Triple]] = {}
    for group in dict.fromkeys(groups[name] for name in outside if groups.get(name) is not None):
        names = [name for name in outside if groups.get(name) == group]
        assert group is not None
        values = [detection_summary(inside, outside[name], 0) for name in names]
        draws = None
        if resamples:
            each = [detection_draws(inside, outside[n], resamples, seed, seed + i) for i, n in enumerate(names, 1)]
            draws = torch.stack(each).mean(0)
        few = min(inside.numel(), *(outside[name].numel() for name in names))
        means[group] = {}
        for i, metric in enumerate(DETECTION):
            value = sum(v[metric][0] for v in values) / len(values)
            if draws is None:
                means[group][metric] = (value, None, None)
            elif metric == "auroc" and 0 < value < 1 and float(draws[:, i].std()) > 0:  # as of one set
                means[group][metric] = (value, *logit_interval(value, float(draws[:, i].std()), _Z))
            else:
                means[group][metric] = (value, *_ends(draws[:, i], value, few))
    return means


def aupr_in_interval(inside: Tensor, outside: Tensor, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `aupr_in` from `n` resamples of both sets, in [0, 1]; percentiles."""
    return _interval("aupr_in", aupr_in, inside, outside, n, seed)


def aupr_out_interval(inside: Tensor, outside: Tensor, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `aupr_out` from `n` resamples of both sets, in [0, 1]; percentiles."""
    return _interval("aupr_out", aupr_out, inside, outside, n, seed)


def fpr95_interval(inside: Tensor, outside: Tensor, n: int = 1000, seed: int = 0) -> tuple[float, float]:
    """95 % interval of `fpr95` from `n` resamples of both sets, in [0, 1]; percentiles.

    The threshold is chosen anew in each resample, so the chance in it is counted too.
    """
    return _interval("fpr95", fpr95, inside, outside, n, seed)


def detection_draws(
    inside: Tensor,
    outside: Tensor,
    n: int = 1000,
    seed: int = 0,
    outside_seed: int | None = None,
    recall: float = USUAL,
) -> Tensor:
    """`[n, 4]` float64: AUROC, AUPR-in, AUPR-out and FPR at `recall` of n resamples, in the order of `DETECTION`.

    Both sets are drawn with replacement to their own sizes. The same `seed` and N draw the same of `inside`, so that
    several sets and several scores of the same images are paired.
    """
    inside, outside = both_sides(inside, outside)
    other = (seed if outside_seed is None else outside_seed) + _OTHER_STREAM
    orders = inside.argsort(descending=True), outside.argsort(descending=True)
    falling, rising = inside.unique().flip(0), outside.unique()
    in_to, out_to, out_before = _above(inside, falling), _above(outside, falling), _beyond(outside, falling)
    out_missed, in_missed = _beyond(outside, rising), _beyond(inside, rising)
    size, others = inside.numel(), outside.numel()
    needed = accepted_at(recall, size)
    rows = max(1, _AT_ONCE // max(size, others))
    blocks = zip(_resampled(size, n, seed).split(rows), _resampled(others, n, other).split(rows), strict=True)
    draws = []
    for w_in, w_out in blocks:
        # How many of the best are drawn, `[R, N + 1]`: whole numbers, exact in float32 up to 16 million.
        best_in, best_out = (_running(w, order) for w, order in zip((w_in, w_out), orders, strict=True))
        true, false, before = best_in[:, in_to], best_out[:, out_to], best_out[:, out_before]
        gained = torch.diff(true, dim=1, prepend=torch.zeros_like(true[:, :1]))
        # An input of `outside` at exactly the threshold is half above, half below.
        area = 1 - (gained * (false + before)).sum(1, dtype=torch.float64) / (2 * size * others)
        first = (true >= needed).int().argmax(1, keepdim=True)
        accepted = false.gather(1, first)[:, 0].double() / others
        detected, mistaken = others - best_out[:, out_missed], size - best_in[:, in_missed]
        draws.append(
            torch.stack([area, average_precision(true, false), average_precision(detected, mistaken), accepted])
        )
    return torch.cat(draws, dim=1).T


def _above(scores: Tensor, steps: Tensor) -> Tensor:
    """How many of `scores` are at or above each of `steps`."""
    return len(scores) - torch.searchsorted(scores.sort().values, steps, right=False)


def _beyond(scores: Tensor, steps: Tensor) -> Tensor:
    """How many of `scores` are above each of `steps`."""
    return len(scores) - torch.searchsorted(scores.sort().values, steps, right=True)


def _resampled(size: int, n: int, seed: int) -> Tensor:
    """`[n, size]`, how often each is drawn; no sample comes 256 times."""
    return torch.cat([block.to(torch.uint8) for block in resamples(size, n, seed)])


def _running(weights: Tensor, order: Tensor) -> Tensor:
    running = weights[:, order].cumsum(1, dtype=torch.float32)
    return torch.cat([running.new_zeros(len(running), 1), running], 1)


def _interval(
    name: str, value: Callable[[Tensor, Tensor], Tensor], inside: Tensor, outside: Tensor, n: int, seed: int
) -> tuple[float, float]:
    draws = detection_draws(inside, outside, n, seed)[:, DETECTION.index(name)]
    return _ends(draws, float(value(inside, outside)), min(inside.numel(), outside.numel()))


def _ends(draws: Tensor, value: float, few: int) -> tuple[float, float]:
    """Low and high, in [0, 1]: the percentile interval, widened where needed to hold `value`.

    In simulations of 300 + 300 scores it covered 91 to 97 %, where the reverse percentiles of `bootstrap.interval`
    covered 87 to 90 % for FPR at 95 %. Where no resample differs (perfect separation) the rule of three.
    """
    if few < 2:
        return 0.0, 1.0
    tails = torch.tensor([0.025, 0.975], dtype=torch.float64)
    low, high = torch.quantile(draws.double(), tails).tolist()
    low, high = min(low, value), max(high, value)
    if high - low < 1e-12:
        slack = min(1.0, 3 / few)
        low, high = value - slack, value + slack
    return max(0.0, low), min(1.0, high)
