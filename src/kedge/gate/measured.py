"""What results say of a criterion: a number, how many images it rests on, and the interval that more would give."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from statistics import NormalDist
from typing import Any

from kedge.binomial import exact_interval

__all__ = ["LEVEL", "Measured", "of_estimate", "of_mean_share", "of_shares"]

LEVEL = 0.95
Ends = tuple[float, float]


@dataclass(frozen=True)
class Measured:
    """What results have of a criterion.

    Attributes:
        value: the number.
        images: how many it rests on.
        ends: from a factor to the interval that so many times as many images would give at the same rates; of 1 that
            of the images that there are. None: these are too few for one.
        note: which class or set it is of; "" for nothing.
        doubt: why a good number is not to be believed; "" for nothing.
    """

    value: float
    images: int
    ends: Callable[[float], Ends] | None
    note: str = ""
    doubt: str = ""


def of_shares(
    counts: Mapping[str, tuple[float, int]], lowest: bool = True, each: str = "", images: int | None = None
) -> Measured | None:
    """The lowest (or the highest) of several shares, `counts` of which are name to (share, number of images).

    The interval is of the lowest true share, exact (Clopper & Pearson 1934) whatever the shares and numbers. Its low
    end is the lowest of the low ends: the share that is truly lowest is below its own in 2.5 % of sets, whichever looks
    lowest. Its high end is the lowest of high ends that hold for all together (Bonferroni). The highest is one less the
    lowest of the rest. A share of no images can be anything.

    Args:
        counts: what the worst is looked for among.
        lowest: whether the lowest is the worst.
        each: what one of them is called before its name in the note, such as "class"; "" for no note.
        images: how many there are in all; None: the sum.
    """
    measured = {name: share for name, (share, n) in counts.items() if n}
    if not measured:
        return None
    worst = (min if lowest else max)(measured, key=measured.__getitem__)
    rights = [(share if lowest else 1 - share, n) for share, n in counts.values()]

    def ends(factor: float) -> Ends:
        low, high = _lowest(rights, factor)
        return (low, high) if lowest else (1 - high, 1 - low)

    total = sum(n for _, n in counts.values()) if images is None else images
    return Measured(measured[worst], total, ends, f"{each} {worst}" if each else "")


def _lowest(shares: Sequence[tuple[float, int]], factor: float) -> Ends:
    scaled = [(share, round(n * factor)) for share, n in shares]
    together = 1 - (1 - LEVEL) / len(scaled)
    return (
        min(_exact(round(share * n), n, LEVEL)[0] for share, n in scaled),
        min(_exact(round(share * n), n, together)[1] for share, n in scaled),
    )


@cache
def _exact(right: float, images: float, level: float) -> Ends:
    return exact_interval(right, images, level) if images else (0.0, 1.0)


def of_estimate(estimate: Any, images: int) -> Measured | None:
    """What an estimate in results says, with its own interval; None: there is no such number.

    More images narrow the interval as a mean's, about the value without bias where the estimate has one.
    """
    if not isinstance(estimate, Mapping) or estimate.get("value") is None:
        return None
    value, low, high = float(estimate["value"]), estimate.get("low"), estimate.get("high")
    if low is None or high is None:
        return Measured(value, images, None)
    corrected = estimate.get("corrected")
    center = value if corrected is None else min(max(float(corrected), low), high)

    def ends(factor: float) -> Ends:
        return center - (center - low) / math.sqrt(factor), center + (high - center) / math.sqrt(factor)

    return Measured(value, images, ends)


def of_mean_share(estimate: Any, images: int) -> Measured | None:
    """What an estimate says of a mean of shares over several conditions of the same images; None: no such number.

    The bootstrap of few images that are nearly all right is too narrow. In its place stands the exact interval of as
    many independent answers as have the variance that the bootstrap shows, corrected for how well few images tell a
    variance (Korn & Graubard, Survey Methodology 1998); where all images say the same, of as many as there are images.
    """
    stated = of_estimate(estimate, images)
    if stated is None or stated.ends is None:
        return stated
    from scipy.special import stdtrit

    value, normal = stated.value, NormalDist().inv_cdf(0.5 + LEVEL / 2)
    low, high = stated.ends(1)
    error = max(value - low, high - value) / normal  # one side may be cut off at 0 or 1
    spread = value * (1 - value)
    alike = error == 0 or spread == 0
    answers = images if alike else spread / error**2 * (normal / float(stdtrit(images - 1, 0.5 + LEVEL / 2))) ** 2
    return replace(stated, ends=lambda factor: _exact(value * answers * factor, answers * factor, LEVEL))
