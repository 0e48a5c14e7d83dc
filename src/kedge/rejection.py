"""The rule for saying "I do not know": what is stored with a model, what meets it, and how it is written for people.

A rule is a dictionary with `threshold`, the confidence from which an answer is given, and `log_odds`, the same place on
a scale that tells apart answers whose confidence is 1 in float32 (see `kedge.confidence`). Rules of before have
`threshold` alone, and are met by the confidence, as are rules whose threshold was changed afterwards.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kedge.printable import counted, percent

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "answered",
    "by_confidence",
    "goal_in_words",
    "in_words",
    "is_rule",
    "is_unknown_rule",
    "least_log_odds",
    "met_by_others",
    "resolved",
    "rule_at",
    "rule_from",
    "set_on",
]

# The log odds of an answer without an alternative (one class, or all others excluded) are infinite. A large number in
# their place can be stored in JSON and shown in a histogram, and leaves room above for a threshold that nothing meets.
CERTAIN = 1e38
# The scores of `kedge.scores` that a rule for `unknown` can have: of the logits of one pass, and of its features.
OF_LOGITS = ("msp", "max_logit", "energy", "entropy")
OF_FEATURES = ("prototypes",)
# How far a threshold that no answer met lies above the confidence of the surest: whoever compares confidences in
# float32 rejects them all too.
_ABOVE = 2.0**-23


def is_rule(stated: Any) -> bool:
    """Whether what a file holds can be a rule: a threshold, and log odds if any, that are finite numbers.

    Of a confidence the threshold is one too, or just above: NaN, or one below 0, would never reject anything.
    """
    if not isinstance(stated, Mapping) or not isinstance(stated.get("score", "confidence"), str):
        return False
    numbers = [stated.get("threshold"), stated.get("log_odds", 0)]
    numbers += [stated[key] for key in ("coverage", "risk") if stated.get(key) is not None]
    if not all(map(_is_finite, numbers)):
        return False
    return by_confidence(stated) is None or 0 <= stated["threshold"] <= 1 + 2 * _ABOVE


def is_unknown_rule(stated: Any) -> bool:
    """Whether what a file holds can be a model's `unknown`, see `kedge.unknown`: a score, a threshold."""
    if not isinstance(stated, Mapping) or stated.get("score") not in (*OF_LOGITS, *OF_FEATURES):
        return False
    shares = [stated[key] for key in ("familiar", "expected", "kept") if stated.get(key) is not None]
    if not all(map(_is_finite, [stated.get("threshold"), *shares])):
        return False
    return stated.get("unknown_if", "below") == "below" and all(0 <= share <= 1 for share in shares)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def rule_at(confidence: float) -> dict[str, float]:
    """The rule that a confidence in [0, 1] stands for: 0.999999999 is another one than 1, and 1 asks for certainty."""
    inside = 0 < confidence < 1
    least = math.log(confidence) - math.log1p(-confidence) if inside else CERTAIN if confidence > 0 else -CERTAIN
    return {"threshold": confidence, "log_odds": least}


def rule_from(log_odds: float, met: bool = True) -> dict[str, float]:
    """The rule that log odds stand for; `met`: whether an answer met it where it was chosen."""
    return {"threshold": _confidence(log_odds) + (0.0 if met else _ABOVE), "log_odds": log_odds}


def by_confidence(rule: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
    """The rule, where there is one and it is about confidence."""
    of_confidence = rule and rule.get("threshold") is not None and rule.get("score", "confidence") == "confidence"
    return rule if of_confidence else None


def answered(rule: Mapping[str, Any], confidence: "Tensor", log_odds: "Tensor") -> "Tensor":
    """`[B]` bool: which answers of this confidence and these log odds `[B]` meet the rule. NaN meets none."""
    least = _least(rule)
    scores, least = (confidence, rule["threshold"]) if least is None else (log_odds, least)
    # Compared in the dtype of the scores: stored as JSON a number has more digits than a float32.
    return scores >= scores.new_tensor(least)


def met_by_others(model: Any, references: Any, rules: Sequence[str] = ("reject", "unknown")) -> str:
    """What is to be known where stored rules of a model meet answers of another number of references, else nothing."""
    words = {name: {"reject": "unsure"}.get(name, name) for name in rules}
    rules = [word for name, word in words.items() if getattr(model, name, None) is not None]
    if not rules or not isinstance(references, int):
        return ""
    used, whole = model.count(references), model.count()
    if used == whole:
        return ""
    return (
        f"its threshold for {' and '.join(rules)} was set on answers with {counted(whole, 'reference')}, and is met "
        f"here by answers with {used}: the shares of what it answers are not those of its whole bank"
    )


def least_log_odds(rule: Mapping[str, Any]) -> float:
    """The log odds from which an answer meets the rule; of one by confidence alone those of its threshold."""
    least = _least(rule)
    return rule_at(min(1.0, rule["threshold"]))["log_odds"] if least is None else least


def in_words(rule: Mapping[str, Any], digits: int = 3) -> str:
    """The threshold of a rule as a confidence, with more digits than `digits` where it would read as 1.

    From 1 - 1e-7 on as the distance from 1, such as "1 - 3e-9".
    """
    least, threshold = _least(rule), float(rule["threshold"])
    usual = f"{threshold:.{digits}f}"
    if float(usual) != 1 or (least is None and threshold >= 1):
        return usual
    # The logarithm of what is missing from 1.
    gap = math.log10(1 - threshold) if least is None else -(least + math.log1p(math.exp(-least))) / math.log(10)
    if gap >= -7:
        return f"{1 - 10**gap:.{-math.floor(gap)}f}"
    if gap < -1000:
        return usual
    places = math.floor(gap)
    first = round(10 ** (gap - places))
    return f"1 - 1e{places + 1}" if first == 10 else f"1 - {first}e{places}"


def goal_in_words(rule: Mapping[str, Any]) -> str:
    """What a threshold was set for: the coverage or the risk of a rule or a recipe."""
    if rule.get("coverage") is not None:
        return f"keep {percent(rule['coverage'])}%"
    return f"be wrong in {percent(rule['risk'])}% at most"


def set_on(rule: Mapping[str, Any]) -> str:
    """Which images a rule was set on, in words."""
    folds = rule.get("folds")
    return f"the images of {folds} folds" if isinstance(folds, int) else "the validation images"


def resolved(rule: Mapping[str, Any]) -> float:
    """The threshold of a rule as a confidence in float64, which is still below 1 where a float32 is not."""
    least = _least(rule)
    return float(rule["threshold"]) if least is None else _confidence(least)


def _least(rule: Mapping[str, Any]) -> float | None:
    """The log odds that a rule asks for; None where it has none, or another threshold was set beside them."""
    least = rule.get("log_odds")
    if least is None:
        return None
    beyond = rule["threshold"] - _confidence(least)
    return least if min(abs(beyond), abs(beyond - _ABOVE)) < 1e-12 else None


def _confidence(log_odds: float) -> float:
    if log_odds >= 0:
        return 1 / (1 + math.exp(-log_odds))
    odds = math.exp(log_odds)
    return odds / (1 + odds)
