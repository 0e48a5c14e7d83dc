"""The rule for `unknown` that is stored with a model: which score, and the threshold by validation images."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kedge.anchoring.prototypes import reads_features
from kedge.unknown import score_of

__all__ = ["FAMILIAR", "rule_anew", "rule_on", "threshold_for"]

FAMILIAR = 0.95  # of validation images that are not to be called unknown


def threshold_for(scores: Tensor, familiar: float) -> tuple[float, float]:
    """(threshold, share of images like these that it leaves alone, on average over the draw of these).

    The k-th lowest of N scores `[N]` of familiar images: a further one of their kind is below it in k of N + 1 cases.
    k is the largest for which that is at most 1 - `familiar`, and 1 where none is: fewer than 1 / (1 - familiar) images
    cannot promise so much.
    """
    count = max(1, math.floor((1 - familiar) * (len(scores) + 1) + 1e-9))
    return float(scores.sort().values[count - 1]), 1 - count / (len(scores) + 1)


def rule_on(scores: Tensor, familiar: float, score: str, **chosen: Any) -> dict[str, Any] | None:
    """The rule by a score, from its values `[N]` on validation images; None where there is none to set it by.

    Args:
        scores: higher = more familiar.
        familiar: the share of images like these that are not to be called unknown, in (0, 1).
        score: their name.
        chosen: what is to be known of how the score was chosen.
    """
    if not len(scores) or not bool(scores.isfinite().all()):
        return None
    threshold, expected = threshold_for(scores, familiar)
    return {
        "score": score,
        "unknown_if": "below",
        "threshold": threshold,
        "familiar": familiar,
        "expected": expected,
        "kept": float((scores >= threshold).double().mean()),
        "images": len(scores),
        **chosen,
    }


def rule_anew(rule: Mapping[str, Any], logits: Tensor, familiarity: Tensor | None = None) -> dict[str, Any] | None:
    """A rule for other answers, logits `[N, C]` and familiarity `[N]`: by the same score, for the same share."""
    chosen = {key: value for key, value in rule.items() if key == "chosen"}
    scores = familiarity if reads_features(rule) else score_of(rule["score"], logits)
    if scores is None:
        return None
    return rule_on(scores, rule.get("familiar", FAMILIAR), rule["score"], **chosen)
