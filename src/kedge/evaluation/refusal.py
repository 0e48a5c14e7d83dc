"""What becomes of images by both rules of a model: answered with a label, unknown, or unsure."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.prototypes import nearest, reads_features
from kedge.binomial import accuracy_interval
from kedge.confidence import log_odds
from kedge.metrics._results import Estimate
from kedge.rejection import answered
from kedge.scores import Outputs
from kedge.unknown import foreign, in_words

__all__ = ["refusal_summary", "unknown_of"]


def refusal_summary(
    model: Any,
    reject: Mapping[str, Any] | None,
    inside: Outputs,
    unknown: Tensor | None,
    labels: Tensor,
    outside: Mapping[str, Outputs],
) -> dict[str, Any] | None:
    """Shares with exact intervals of own images and of each foreign set; None without a rule for `unknown`.

    `unknown`: `unknown_of` the images `inside`; None also where the rule is by features that cannot be read.
    """
    if unknown is None:
        return None
    rule, unsure = model.unknown, _unsure(reject, inside.logits.float()) & ~unknown
    flags = {}
    for name, outputs in outside.items():
        away = unknown_of(model, outputs)
        if away is None:
            return None
        flags[name] = away, _unsure(reject, outputs.logits.float()) & ~away
    given = ~(unknown | unsure)
    right = inside.logits.argmax(1)[given] == labels.to(inside.logits.device)[given]
    own = {"answered": given, "unknown": unknown, "unsure": unsure, **({"accuracy": right} if len(right) else {})}
    return {
        "rule": in_words(rule),
        "score": rule["score"],
        "threshold": float(rule["threshold"]),
        "clean": {name: _share(values) for name, values in own.items()},
        "ood": {name: {"answered": _share(~(a | b)), "unknown": _share(a)} for name, (a, b) in flags.items()},
    }


def unknown_of(model: Any, outputs: Outputs) -> Tensor | None:
    """Which images the rule of a model calls unknown, `[N]` bool; None without a rule or the features that it reads."""
    rule, near = model.unknown, outputs.familiarity
    if rule is None:
        return None
    if reads_features(rule) and near is None:
        if outputs.features is None:
            return None
        near = nearest(outputs.features, model.prototypes.to(outputs.features.device))
    return foreign(rule, outputs.logits.float(), near)


def _unsure(reject: Mapping[str, Any] | None, logits: Tensor) -> Tensor:
    if reject is None:
        return logits.new_zeros(len(logits), dtype=torch.bool)
    return ~answered(reject, logits.softmax(1).amax(1), log_odds(logits))


def _share(flags: Tensor) -> dict[str, Any]:
    count, of = int(flags.sum()), len(flags)
    return Estimate(count / of, *accuracy_interval(count, of)).to_json()
