"""From which confidence the small model of a cascade answers: chosen on images whose labels are known."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

from kedge.metrics import threshold_for_risk
from kedge.rejection import rule_from

__all__ = ["Choice", "choose_rule", "images_for_loss", "surely_below"]


@dataclass(frozen=True)
class Choice:
    """A rule, and what a cascade by it does on the images that it was chosen on.

    Attributes:
        rule: see `kedge.cascade.Cascade`.
        passed: share of images that the large model answers.
        accuracy, small, large: share of right answers of the cascade and of each model alone.
        risk: share of wrong answers among those of the small model that stand; 0 where none do.
    """

    rule: dict[str, float]
    passed: float
    accuracy: float
    small: float
    large: float
    risk: float


def choose_rule(
    log_odds: Tensor,
    small_right: Tensor,
    large_right: Tensor,
    max_loss: float | None = None,
    max_risk: float | None = None,
    certainty: float | None = None,
) -> Choice:
    """The rule by which the fewest images are passed on, while no more is lost than allowed.

    Without `certainty` it is allowed on these images, of which it goes to the edge: on others about every second such
    rule loses more. With it, such as 0.95, the rule is one that keeps what is asked on all images like these, with that
    probability over the draw of them: it passes more on, and takes more images.

    Args:
        log_odds: `[N]`, of the confidence of the small model.
        small_right, large_right: `[N]` bool, whether each model is right.
        max_loss: how much the accuracy of the cascade may be below that of the large model alone, 0 to 1.
        max_risk: the share of wrong answers among those of the small model that stand, 0 to 1.
        certainty: None, or between 0 and 1.

    Raises:
        ValueError: for no images, neither or a value out of range; where no rule keeps what is asked, as the small
            model is never sure enough, or as there are too few images to show it.
    """
    if max_loss is None and max_risk is None:
        raise ValueError("say what may be lost: max_loss of accuracy, or max_risk among the small model's answers")
    for name, value in (("max_loss", max_loss), ("max_risk", max_risk)):
        if value is not None and not 0 <= value < 1:
            raise ValueError(f"{name} is a share of images, at least 0 and below 1, not {value}")
    if certainty is not None and not 0 < certainty < 1:
        raise ValueError(f"certainty is between 0 and 1, not {certainty}")
    count = len(log_odds)
    if count == 0:
        raise ValueError("there are no images to choose a rule on")
    order = log_odds.double().sort(descending=True, stable=True)
    right, other = (each[order.indices].double() for each in (small_right, large_right))
    # Kept are the first k; equal log odds are kept together.
    kept = torch.arange(1, count + 1)
    fits = torch.cat([order.values[1:] < order.values[:-1], torch.tensor([True])])
    risk = 1 - right.cumsum(0) / kept
    if certainty is not None:
        each = certainty if max_loss is None or max_risk is None else (1 + certainty) / 2  # both are to hold
        fits &= _certainly(order.values, right, other, max_loss, max_risk, each)
    if certainty is None and max_loss is not None:
        fits &= (other - right).cumsum(0) / count <= max_loss + 1e-12
    if certainty is None and max_risk is not None:
        fits &= risk <= max_risk + 1e-12
    if not bool(fits.any()):
        raise ValueError(_none_fits(count, max_loss, max_risk, certainty))
    k = int(fits.nonzero()[-1])
    rule = rule_from(float(order.values[k]))
    return Choice(
        rule,
        1 - (k + 1) / count,
        float((right[: k + 1].sum() + other[k + 1 :].sum()) / count),
        float(right.mean()),
        float(other.mean()),
        float(risk[k]),
    )


def _certainly(
    log_odds: Tensor, right: Tensor, other: Tensor, max_loss: float | None, max_risk: float | None, certainty: float
) -> Tensor:
    """`[N]` bool: whether keeping the first k surely keeps what is asked; `log_odds` falling.

    Of the loss all k are tried from the strictest on, up to the first that is not sure: tests in a fixed order need no
    correction for their number (Angelopoulos et al., "Learn then Test", arXiv 2110.01052).
    """
    fits = torch.ones(len(log_odds), dtype=torch.bool)
    if max_loss is not None:
        lost, gained = ((a * (1 - b)).cumsum(0) for a, b in ((other, right), (right, other)))
        ends = torch.cat([log_odds[1:] < log_odds[:-1], torch.tensor([True])])
        sure = surely_below(lost, gained, len(log_odds), max_loss, certainty) | ~ends
        fits &= sure.long().cumprod(0).bool()
        if len(log_odds) < images_for_loss(max_loss, certainty):
            fits[:] = False
    if max_risk is not None:
        threshold, _ = threshold_for_risk(log_odds, right.bool(), max_risk, certainty)
        fits &= log_odds >= (math.inf if threshold is None else threshold)
    return fits


def surely_below(lost: Tensor, gained: Tensor, count: int, max_loss: float, certainty: float) -> Tensor:
    """Whether the true loss is below `max_loss` by a one-sided test at `1 - certainty`, bool.

    Args:
        lost, gained: float64, of `count` images how many the large model alone has right, and the small one alone.

    Source: the score test of Tango, "Equivalence test and confidence interval for the difference in proportions for the
        paired-sample design", Statistics in Medicine 1998.
    """
    b = -lost - gained + (2 * count - lost + gained) * max_loss
    c = -gained * max_loss * (1 - max_loss)
    least = ((b.square() - 8 * count * c).sqrt() - b) / (4 * count)  # share gained, most likely at a loss of max_loss
    spread = (count * (2 * least + max_loss * (1 - max_loss))).sqrt()
    return lost - gained - count * max_loss <= -NormalDist().inv_cdf(certainty) * spread.clamp(min=1e-12)


def images_for_loss(max_loss: float, certainty: float) -> float:
    """How many images it takes to show a loss below `max_loss` where none of them is lost; infinity for 0."""
    z = max(0.0, NormalDist().inv_cdf(certainty))
    return math.inf if max_loss == 0 else math.ceil(z * z * (1 - max_loss) / max_loss)


def _none_fits(count: int, max_loss: float | None, max_risk: float | None, certainty: float | None) -> str:
    """What no rule keeps, and what to do."""
    asked = [f"at most {100 * max_loss:g} points lost"] if max_loss is not None else []
    asked += [f"at most {100 * max_risk:g} % wrong"] if max_risk is not None else []
    if certainty is None:
        return (
            f"no confidence of the small model keeps {' and '.join(asked)} on these {count} images: it is wrong where "
            "it is surest. Allow more, or take a better small model"
        )
    each = certainty if max_loss is None or max_risk is None else (1 + certainty) / 2
    least = 0.0 if max_loss is None else images_for_loss(max_loss, each)
    takes = f": that takes {least:.0f} or more" if count < least < math.inf else ""
    return (
        f"{count} images cannot show, with a certainty of {certainty:g}, {' and '.join(asked)}{takes}. Choose on more "
        "images, allow more, or ask for no certainty"
    )
