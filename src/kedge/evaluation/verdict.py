"""Can it be used: whether a model may answer all images, or at least half, with no more than a stated share wrong.

The number of images answered at a stated risk is found on the images themselves, which flatters it. A verdict rests on
two parts that are fixed beforehand: all images, and the more certain half of them. Each has an exact 95 % interval of
its share of wrong answers, whose ends are each false in 2.5 % at most: either part can make it usable, so that is false
in 5 % at most.
"""

from typing import Any

from torch import Tensor

from kedge.binomial import exact_interval

LEVEL = 0.95
FEWEST = 20  # images below which nothing is said


def verdict(log_odds: Tensor, correct: Tensor, risk: float) -> dict[str, Any]:
    """What log odds of confidences and right answers `[N]` say of answering with at most `risk` wrong.

    Images as certain as the last of the half belong to it: it does not depend on the order of the images.

    Returns:
        `kind`: "all" (every image may be answered), "half" (at least the more certain half), "none" (not even that
        half), "unclear" (too few images to say) or "few" (below 20 images). `risk`, and of the parts "all" and "half"
        `images`, `wrong`, and the bounds `low` and `high` of the share of wrong answers.
    """
    wrong = ~correct
    last = log_odds.sort(descending=True).values[(len(wrong) - 1) // 2]
    parts = {"all": _part(wrong), "half": _part(wrong[log_odds >= last])}
    return {"kind": _kind(parts, len(wrong), risk), "risk": risk, **parts}


def _part(wrong: Tensor) -> dict[str, Any]:
    errors, images = int(wrong.sum()), len(wrong)
    low, high = exact_interval(errors, images, LEVEL)
    return {"images": images, "wrong": errors, "low": low, "high": high}


def _kind(parts: dict[str, dict[str, Any]], images: int, risk: float) -> str:
    if images < FEWEST:
        return "few"
    if parts["all"]["high"] <= risk:
        return "all"
    if parts["half"]["high"] <= risk:
        return "half"
    return "none" if parts["half"]["low"] > risk else "unclear"
