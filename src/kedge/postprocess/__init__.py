"""Steps after the logits, logits to logits: kept with a model, and applied by predict, fold, export and the reports.

A step is a file of this room: a class called like the file that extends `Step`. What it needs is one value that JSON
can hold, whether fitted on validation images (`temperature`), stated (`class_prior`), or none, as of a map that the
network was trained through (`stable_max`); `model.steps` maps names to records with that value, in the order in which
the steps are applied. One step keeps the logits and says which classes fit beside the answer (`prediction_sets`).
"""

from typing import Any

from kedge import catalog
from kedge.postprocess._base import (
    Step,
    Stepped,
    apply,
    changes_labels,
    check_steps,
    describe_steps,
    kind_of,
    placed,
    trained_through,
    undo,
)
from kedge.postprocess._conformal import (
    conformal_threshold,
    coverage_of_members,
    coverage_range,
    images_needed,
    majority,
    merged_scores,
    set_scores,
)
from kedge.postprocess._set_rule import SetRule, set_rule

__all__ = [
    *catalog.class_names("postprocess"),
    "SetRule",
    "Step",
    "Stepped",
    "apply",
    "changes_labels",
    "check_steps",
    "conformal_threshold",
    "coverage_of_members",
    "coverage_range",
    "describe_steps",
    "images_needed",
    "kind_of",
    "majority",
    "merged_scores",
    "placed",
    "set_rule",
    "set_scores",
    "trained_through",
    "undo",
]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
