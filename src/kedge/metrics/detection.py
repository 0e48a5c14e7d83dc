"""How well a score separates in-distribution from out-of-distribution inputs.

In-distribution is the positive class, and a higher score means more in-distribution, everywhere in kedge.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor


def _check(inside: Tensor, outside: Tensor) -> tuple[Tensor, Tensor]:
    for name, scores in (("inside", inside), ("outside", outside)):
        if scores.ndim != 1 or scores.numel() == 0:
            raise ValueError(f"{name} must be scores of shape [N], N >= 1, but its shape is {list(scores.shape)}")
        if bool(scores.isnan().any()):
            raise ValueError(f"{int(scores.isnan().sum())} of {scores.numel()} scores {name} are NaN")
    # Scores are compared on the CPU in float64: float32 logits lose nothing, and MPS has no float64.
    return inside.detach().cpu().double(), outside.detach().cpu().double()


def _placements(scores: Tensor, others: Tensor) -> Tensor:
    """`[N]` share of `others` below each of `scores`, ties counted as one half."""
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
    inside, outside = _check(inside, outside)
    return _placements(inside, outside).mean()


def auroc_interval(inside: Tensor, outside: Tensor, level: float = 0.95) -> tuple[float, float]:
    """Confidence interval of `auroc`, clipped to [0, 1]: DeLong's variance (Biometrics 1988), normal.

    Where the variance is 0 and so no guide (perfect separation), the reach is 3 / min(N, M), the rule of three; with
    fewer than two scores on a side the interval is (0, 1).
    """
    inside, outside = _check(inside, outside)
    value = float(_placements(inside, outside).mean())
    few = min(inside.numel(), outside.numel())
    if few < 2:
        return 0.0, 1.0
    ins, outs = _placements(inside, outside), _placements(outside, inside)
    error = math.sqrt(float(ins.var() / inside.numel() + outs.var() / outside.numel()))
    if error == 0:
        slack = min(1.0, 3 / few)
        return max(0.0, value - slack), min(1.0, value + slack)
    reach = NormalDist().inv_cdf(0.5 + level / 2) * error
    return max(0.0, value - reach), min(1.0, value + reach)


def fpr95(inside: Tensor, outside: Tensor, recall: float = 0.95) -> Tensor:
    """Share of out-of-distribution inputs still accepted when at least 95 % of the in-distribution ones are.

    A scalar in [0, 1]; lower is better. The threshold is the highest value t for which score >= t accepts at
    least `recall` of `inside` `[N]`; an input of `outside` `[M]` at exactly t counts as accepted.
    Raises ValueError for NaN and for an empty set.
    """
    inside, outside = _check(inside, outside)
    total = inside.numel()
    accepted = math.ceil(recall * total)
    if accepted > 1 and (accepted - 1) / total >= recall:  # 0.95 * n can round up past an exact integer
        accepted -= 1
    threshold = inside.sort(descending=True).values[accepted - 1]
    return (outside >= threshold).double().mean()
