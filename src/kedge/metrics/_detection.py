"""How well a score separates in-distribution from out-of-distribution inputs.

In-distribution is the positive class, and a higher score means more in-distribution, everywhere in kedge; only
`aupr_out` turns it round, and its name says so. Intervals and summaries are in `separation`.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

from kedge.metrics._checks import check_scores

_FEW_AMONG = 10  # scores among those of the other side, from which on a variance can be estimated


def both_sides(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    """The scores of both sides on the CPU in float64. Raises ValueError for NaN and for an empty set."""
    # Scores are compared on the CPU in float64: float32 logits lose nothing, and MPS has no float64.
    return check_scores("scores inside", inside).double(), check_scores("scores outside", outside).double()


def placements(scores: Tensor, others: Tensor) -> Tensor:
    """`[N]` float64 in [0, 1]: the share of `others` `[M]` below each of `scores` `[N]`, ties counted as one half.

    Their mean is the AUROC; by their variances over both sides DeLong's method (Biometrics 1988) has its variance.
    """
    ordered = others.sort().values
    below = torch.searchsorted(ordered, scores, right=False)
    upto = torch.searchsorted(ordered, scores, right=True)
    return (below + upto).double() / (2 * others.numel())


def auroc(inside: Tensor, outside: Tensor) -> Tensor:
    """Area under the ROC curve, a scalar in [0, 1]; 0.5 is chance, higher is better.

    The chance that an in-distribution input scores higher than an out-of-distribution one, ties counted as a half.
    `inside` `[N]` scores of in-distribution inputs (the positive class), `outside` `[M]` of the others.
    Raises ValueError for NaN and for an empty set.
    """
    inside, outside = both_sides(inside, outside)
    return placements(inside, outside).mean()


def auroc_interval(inside: Tensor, outside: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of `auroc`, in [0, 1]: DeLong's variance (Biometrics 1988), normal on the logit scale.

    On the scale of the AUROC itself that interval is too short near 1: of normal scores with a true AUROC of 0.9993,
    300 a side, it held the truth in 81 %. On the logit scale it is inside (0, 1) and longer towards 0.5 (Pepe, "The
    Statistical Evaluation of Medical Tests", 2003, section 5.2). The variance rests on the scores that lie among those
    of the other side; where these are fewer than ten on a side, the interval also holds that of Newcombe's method 5
    (Statistics in Medicine 2006), whose variance does not. Where the variance is 0 and so no guide (perfect
    separation), the reach is also 3 / min(N, M), the rule of three; with fewer than two scores on a side the interval
    is (0, 1).
    """
    inside, outside = both_sides(inside, outside)
    if min(inside.numel(), outside.numel()) < 2:
        return 0.0, 1.0
    ins, outs = placements(inside, outside), placements(outside, inside)
    value, z = float(ins.mean()), NormalDist().inv_cdf(0.5 + level / 2)
    error = math.sqrt(float(ins.var() / inside.numel() + outs.var() / outside.numel()))
    slack = 3 / min(inside.numel(), outside.numel())
    ends = list(logit_interval(value, error, z)) if error > 0 else [max(0.0, value - slack), min(1.0, value + slack)]
    if min(int(((side > 0) & (side < 1)).sum()) for side in (ins, outs)) < _FEW_AMONG:
        ends += _newcombe(value, inside.numel(), outside.numel(), z)
    return min(ends), max(ends)


def logit_interval(value: float, error: float, z: float) -> tuple[float, float]:
    """`value` in (0, 1) with its standard error on the logit scale: z of them to either side, in [0, 1]."""
    middle, reach = math.log(value / (1 - value)), z * error / (value * (1 - value))
    return _logistic(middle - reach), _logistic(middle + reach)


def _logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x)) if x > -700 else 0.0


def _newcombe(value: float, size: int, others: int, z: float) -> list[float]:
    """The two AUROCs that differ from `value` by z standard errors of their own, by bisection.

    The standard error is that of Hanley & McNeil (Radiology 1982) with both sizes replaced by their mean.
    """

    def apart(true: float) -> bool:
        size_less_1 = (size + others) / 2 - 1
        pairs = 1 + size_less_1 * ((1 - true) / (2 - true) + true / (1 + true))
        return abs(true - value) > z * math.sqrt(true * (1 - true) * pairs / (size * others))

    ends = []
    for end in (0.0, 1.0):
        near, far = value, end
        for _ in range(60):
            middle = (near + far) / 2
            near, far = (near, middle) if apart(middle) else (middle, far)
        ends.append(near)
    return ends


def fpr95(inside: Tensor, outside: Tensor, recall: float = 0.95) -> Tensor:
    """Share of out-of-distribution inputs still accepted when at least 95 % of the in-distribution ones are.

    A scalar in [0, 1]; lower is better. The threshold is the highest value t for which score >= t accepts at
    least `recall` of `inside` `[N]`; an input of `outside` `[M]` at exactly t counts as accepted.
    Raises ValueError for NaN and for an empty set.
    """
    return torch.tensor(operating_point(inside, outside, recall).fpr, dtype=torch.float64)


class OperatingPoint(NamedTuple):
    """What a threshold on a score does to N in-distribution and M out-of-distribution inputs.

    Attributes:
        fpr: the share of the M that pass.
        threshold: an input passes whose score is at least this.
        accepted, inside: how many in-distribution inputs pass, of how many.
        passed, outside: how many out-of-distribution inputs pass, of how many.
    """

    fpr: float
    threshold: float
    accepted: int
    inside: int
    passed: int
    outside: int

    @property
    def tpr(self) -> float:
        """The share of in-distribution inputs that pass: what was asked for, or more."""
        return self.accepted / self.inside

    def note(self, tpr: float) -> str:
        """What speaks against reading this as the FPR at `tpr`, in words; "" for nothing."""
        words, needed = [], accepted_at(tpr, self.inside)
        if self.accepted > needed:
            words.append(
                f"ties: no threshold passes {needed} of {self.inside}, so {self.accepted} pass ({100 * self.tpr:.1f} %)"
            )
        if (rest := self.inside - needed + 1) < FEW_BELOW:
            words.append(
                f"the threshold rests on the {f'{rest} lowest' if rest > 1 else 'lowest'} of {self.inside} scores: "
                "other images move it far"
            )
        return "; ".join(words)


FEW_BELOW = 5  # scores at or below the threshold, with fewer of which it is hardly more than the smallest


def operating_point(inside: Tensor, outside: Tensor, tpr: float = 0.95) -> OperatingPoint:
    """The share of out-of-distribution inputs that pass where at least `tpr` of the in-distribution ones do.

    The threshold is the highest score of `inside` `[N]` that enough of them reach; an input of `outside` `[M]` at
    exactly the threshold passes. Ties can pass more than were asked for: the counts, and `note`, say so.

    Raises:
        ValueError: for NaN, an empty set, and a `tpr` that is not above 0 and at most 1.
    """
    if not 0 < tpr <= 1:
        raise ValueError(f"the share of familiar images that must pass is above 0 and at most 1, got {tpr}")
    inside, outside = both_sides(inside, outside)
    threshold = inside.sort(descending=True).values[accepted_at(tpr, inside.numel()) - 1]
    accepted, passed = int((inside >= threshold).sum()), int((outside >= threshold).sum())
    return OperatingPoint(passed / outside.numel(), float(threshold), accepted, inside.numel(), passed, outside.numel())


def accepted_at(recall: float, total: int) -> int:
    """How many of `total` must be accepted for a share of at least `recall`."""
    accepted = math.ceil(recall * total)
    # 0.95 * n can round up past an exact integer
    return accepted - 1 if accepted > 1 and (accepted - 1) / total >= recall else accepted


def aupr_in(inside: Tensor, outside: Tensor) -> Tensor:
    """Area under precision against recall with in-distribution as the positive class, a scalar in (0, 1].

    Average precision: the precision at each distinct threshold, weighted by the recall gained there (no straight lines
    between points, which would flatter; OpenOOD draws them). Chance is the share of `inside` `[N]` among all, so it
    depends on the sizes of the sets. Raises ValueError for NaN and for an empty set.
    """
    inside, outside = both_sides(inside, outside)
    return average_precision(*counts_above(inside, outside))


def aupr_out(inside: Tensor, outside: Tensor) -> Tensor:
    """Area under precision against recall with out-of-distribution as the positive class, a scalar in (0, 1].

    As `aupr_in`, for finding the inputs of `outside` `[M]` by a low score; chance is their share among all.
    Raises ValueError for NaN and for an empty set.
    """
    inside, outside = both_sides(inside, outside)
    return average_precision(*counts_above(-outside, -inside))


def counts_above(positive: Tensor, negative: Tensor) -> tuple[Tensor, Tensor]:
    """(true, false) positives `[G]` float64 at each of the G distinct scores of `positive`, from the highest down."""
    steps = positive.unique().flip(0)
    counts = [len(side) - torch.searchsorted(side.sort().values, steps, right=False) for side in (positive, negative)]
    return counts[0].double(), counts[1].double()


def average_precision(true: Tensor, false: Tensor) -> Tensor:
    """`[...]` from true and false positives `[..., G]` at falling thresholds; the last holds all positives."""
    gained = torch.diff(true, dim=-1, prepend=torch.zeros_like(true[..., :1]))
    # Nothing above a threshold (a resample can leave scores out) is no gain, whatever its precision.
    return (gained * true / (true + false).clamp(min=1)).sum(-1, dtype=torch.float64) / true[..., -1]


def roc_curve(inside: Tensor, outside: Tensor, points: int = 200) -> tuple[Tensor, Tensor]:
    """(fpr, tpr), each `[P]` float64 with P <= `points`, from (0, 0) to (1, 1): what a plot needs.

    tpr is the share of `inside` `[N]` (the positive class) at or above a threshold, fpr that of `outside` `[M]`. Of a
    curve with more corners, the ones nearest to even steps along it are kept. Raises ValueError for NaN and for an
    empty set, and for fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a curve has two points at least, but points is {points}")
    inside, outside = both_sides(inside, outside)
    steps = torch.cat([inside, outside]).unique().flip(0)
    rates = [
        torch.cat([side.new_zeros(1), 1 - torch.searchsorted(side.sort().values, steps).double() / len(side)])
        for side in (outside, inside)
    ]
    along = rates[0] + rates[1]
    if len(along) > points:
        even = torch.linspace(0, 2, points, dtype=torch.float64)
        index = torch.searchsorted(along, even).clamp(max=len(along) - 1).unique()
        rates = [rate[index] for rate in rates]
    return rates[0], rates[1]
