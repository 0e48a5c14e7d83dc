"""What becomes of images by both rules of a model: answered with a label, unknown, or unsure."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from kedge.anchoring.prototypes import nearest, reads_features
from kedge.confidence import log_odds
from kedge.metrics import accuracy_interval
from kedge.metrics._results import Estimate
from kedge.rejection import answered
from kedge.scores import Outputs
from kedge.unknown import foreign, in_words

__all__ = ["refusal_summary"]


def refusal_summary(
    model: Any, reject: Mapping[str, Any] | None, inside: Outputs, labels: Tensor, outside: Mapping[str, Outputs]
) -> dict[str, Any] | None:
    """Shares with exact intervals of own images and of each foreign set; None without a rule for `unknown`.

    Also None where the rule is by features, and these were not collected: they are where scores of `--ood` read them.
    """
    rule = model.unknown
    every = {"": inside, **outside}
    if rule is None or (reads_features(rule) and any(each.features is None for each in every.values())):
        return None
    flags = {name: _flags(model, reject, outputs) for name, outputs in every.items()}
    unknown, unsure = flags.pop("")
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


def _flags(model: Any, reject: Mapping[str, Any] | None, outputs: Outputs) -> tuple[Tensor, Tensor]:
    """Which images are unknown, and which of the others unsure, `[N]` bool each."""
    logits, near = outputs.logits.float(), None
    if reads_features(model.unknown) and outputs.features is not None:
        near = nearest(outputs.features, model.prototypes.to(outputs.features.device))
    unknown = foreign(model.unknown, logits, near)
    if reject is None:
        return unknown, unknown & False
    return unknown, ~answered(reject, logits.softmax(1).amax(1), log_odds(logits)) & ~unknown


def _share(flags: Tensor) -> dict[str, Any]:
    count, of = int(flags.sum()), len(flags)
    return Estimate(count / of, *accuracy_interval(count, of)).to_json()
