"""Answers that are no class: `unknown`, none of these, by the rule that a model has as `unknown`; and `unsure`.

The rule is a dictionary: `score`, one of `kedge.scores` that one pass is enough for, and `threshold`. Scores are higher
for what is familiar: an image whose score is not at least the threshold is `unknown` (`unknown_if` says "below"). What
is not unknown, but does not meet the reject rule, is `unsure`. `prototypes` is a score of the features, which a model
computes in its own pass with the directions that it has as `prototypes`; the others are of the logits after its steps.
Both are of its whole bank: what was set for one bank or file is for no other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge import specs
from kedge.anchoring import Prediction
from kedge.anchoring.outputs import Outputs
from kedge.anchoring.prototypes import PROTOTYPES, reads_features
from kedge.rejection import OF_FEATURES, OF_LOGITS, answered, is_unknown_rule

__all__ = [
    "OF_LOGITS",
    "UNKNOWN",
    "UNSURE",
    "about_unknown",
    "answer",
    "answers",
    "foreign",
    "formula",
    "in_words",
    "score_of",
    "words",
]

UNKNOWN, UNSURE = "unknown", "unsure"
FEW = 60  # validation images below which a threshold that keeps 95 % of them is one of their three lowest scores
FORMULAS = {
    "msp": "log(p / (1 - p)), p the largest of softmax(logits)",
    "max_logit": "max(logits)",
    "energy": "log(sum(exp(logits)))",
    "entropy": "sum(p * log(p)), p = softmax(logits)",
    PROTOTYPES: "the output familiarity",
}


def score_of(name: str, logits: Tensor) -> Tensor:
    """`[B]`, how familiar images are by a score of `OF_LOGITS`, from logits `[B, C]`: torch alone, and traceable."""
    score: Tensor = specs.build("scores", name).score(Outputs(logits))
    return score


def foreign(rule: Mapping[str, Any] | None, logits: Tensor, familiarity: Tensor | None = None) -> Tensor:
    """`[B]` bool: which images are unknown by the rule; none without one. NaN is unknown.

    Args:
        rule: of the model that gave the others.
        logits: `[B, C]`.
        familiarity: `[B]`, `Prediction.familiarity`, for a rule by prototypes.

    Raises:
        ValueError: for what is no rule, and where it needs a familiarity that the prediction has not.
    """
    if rule is None:
        return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    if not is_unknown_rule(rule):
        of = ", ".join((*OF_LOGITS, *OF_FEATURES))
        raise ValueError(f"a rule for unknown is one of the scores {of} and a finite threshold, not {rule!r:.200}")
    if reads_features(rule) and familiarity is None:
        raise ValueError(
            "the rule for unknown is by prototypes, and the prediction has no familiarity: the model has no prototypes "
            "or no last layer that features are read from; set model.unknown = None, or a rule by another score"
        )
    scores = familiarity if reads_features(rule) else score_of(rule["score"], logits)
    assert scores is not None
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
    away = foreign(model.unknown, prediction.logits, prediction.familiarity).tolist()
    unsure = [False] * len(said)
    if model.reject is not None:
        unsure = (~answered(model.reject, prediction.confidence, prediction.log_odds)).tolist()
    return [answer(*each, own) for each in zip(said, away, unsure, strict=True)]


def answer(label: str, unknown: bool | None, unsure: bool | None, own: tuple[str, str]) -> str:
    """The answer to an image of which the rules say so, None where there is no rule; `own` are the `words`."""
    return own[0] if unknown else own[1] if unsure else label


def about_unknown(model: Any) -> list[str]:
    """What a run says of the rule that was stored: what it is, what it promises, and why it is this score."""
    rule = model.unknown
    lines = [
        f"unknown where {in_words(rule)}: {rule['kept']:.1%} of the {rule['images']:,} images are not; of images like "
        f"them {rule['expected']:.1%} are expected not to be"
    ]
    if rule["images"] < FEW:
        lines.append(
            f"  careful: {rule['images']:,} images are too few for a threshold to rely on: it is their lowest score or "
            f"next to it, and may let most foreign images through; {FEW} or more are worth more (--folds judges by all)"
        )
    if why := rule.get("chosen", {}).get("why"):
        lines.append(f"  {why}")
    own = words(model.class_names)
    if own != (UNKNOWN, UNSURE):
        lines.append(
            f"  a class is called like an answer that is no class: kedge predict answers {own[0]} and {own[1]} then"
        )
    return lines


def in_words(rule: Mapping[str, Any]) -> str:
    """The rule for people, such as `energy below 3.21`."""
    return f"{rule['score']} below {float(rule['threshold']):.3g}"
