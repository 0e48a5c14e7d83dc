"""Answers that are no class: `unknown`, none of these, by the rule that a model has as `unknown`; and `unsure`.

The rule is a dictionary: `score`, one of `kedge.scores` that is computed from the logits of one pass, and `threshold`.
Scores are higher for what is familiar: an image whose score is not at least the threshold is `unknown`
(`unknown_if` says "below"). What is not unknown, but does not meet the reject rule, is `unsure`. The logits are those
that the model gives, after its steps, of its whole bank: what was set for one bank, step or file is for no other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge import catalog
from kedge.anchoring import Prediction
from kedge.anchoring.outputs import Outputs
from kedge.rejection import OF_LOGITS, answered, is_unknown_rule

__all__ = [
    "OF_LOGITS",
    "UNKNOWN",
    "UNSURE",
    "answer",
    "answers",
    "foreign",
    "formula",
    "in_words",
    "score_of",
    "words",
]

UNKNOWN, UNSURE = "unknown", "unsure"
FORMULAS = {
    "msp": "log(p / (1 - p)), p the largest of softmax(logits)",
    "max_logit": "max(logits)",
    "energy": "log(sum(exp(logits)))",
    "entropy": "sum(p * log(p)), p = softmax(logits)",
}


def score_of(name: str, logits: Tensor) -> Tensor:
    """`[B]`, how familiar images are by a score of `OF_LOGITS`, from logits `[B, C]`: torch alone, and traceable."""
    score: Tensor = catalog.build("scores", name).score(Outputs(logits))
    return score


def foreign(rule: Mapping[str, Any] | None, logits: Tensor) -> Tensor:
    """`[B]` bool: which images of these logits `[B, C]` are unknown by the rule; none without one. NaN is unknown.

    Raises ValueError for what is no rule.
    """
    if rule is None:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if not is_unknown_rule(rule):
        raise ValueError(
            f"a rule for unknown is one of the scores {', '.join(OF_LOGITS)} and a finite threshold, not {rule!r:.200}"
        )
    scores = score_of(rule["score"], logits)
    # Compared in the dtype of the scores: stored as JSON a number has more digits than a float32.
    return ~(scores >= scores.new_tensor(rule["threshold"]))


def formula(rule: Mapping[str, Any]) -> str:
    """What a program does with the logits of an exported file to tell unknown images."""
    return f"unknown where not {FORMULAS[rule['score']]} >= threshold"


def words(class_names: Sequence[str] | None) -> tuple[str, str]:
    """What answers that are no class read: unknown and unsure; in brackets where a class is called so."""
    taken = set(class_names or ())
    unknown, unsure = (f"({word})" if word in taken else word for word in (UNKNOWN, UNSURE))
    return unknown, unsure


def answers(model: Any, prediction: Prediction, answer_all: bool = False) -> list[str]:
    """The answer to each of B images in words: `unknown`, else `unsure`, else the name of its class.

    Args:
        model: what gave the prediction, with its rules; `model.unknown = None` or `model.reject = None` turns one off.
        prediction: of a classifier.
        answer_all: the name of the class always.
    """
    if prediction.label is None or prediction.confidence is None or prediction.log_odds is None:
        raise ValueError(f"answers are of a classifier, and the task of this model is {model.task}")
    names = model.class_names or [str(i) for i in range(prediction.logits.shape[-1])]
    said = [names[label] for label in prediction.label.tolist()]
    if answer_all:
        return said
    own = words(model.class_names)
    away = foreign(model.unknown, prediction.logits).tolist()
    unsure = [False] * len(said)
    if model.reject is not None:
        unsure = (~answered(model.reject, prediction.confidence, prediction.log_odds)).tolist()
    return [answer(*each, own) for each in zip(said, away, unsure, strict=True)]


def answer(label: str, unknown: bool | None, unsure: bool | None, own: tuple[str, str]) -> str:
    """The answer to an image of which the rules say so, None where there is no rule; `own` are the `words`."""
    return own[0] if unknown else own[1] if unsure else label


def in_words(rule: Mapping[str, Any]) -> str:
    """The rule for people, such as `energy below 3.21`."""
    return f"{rule['score']} below {float(rule['threshold']):.3g}"
