"""Scores of single inputs: higher = more in-distribution, for every score. Needs torch and nothing heavier.

A score has `name`, `needs` (what it reads besides logits), `fits` (whether it learns from training images),
`fit(outputs, labels)` and `score(outputs) -> [B]`. `outputs_of` runs a model once, and all scores share what it
returns. Each is a file of this folder; `SCORES` has them all by name.
"""

from typing import Any

from kedge import catalog
from kedge.anchoring.last_layer import last_layer
from kedge.scores._base import Outputs, Score, outputs_of, usable
from kedge.scores._pytorch_ood import PytorchOOD

SCORES: dict[str, type[Score]]

__all__ = [
    *catalog.class_names("scores"),
    "SCORES",
    "Outputs",
    "PytorchOOD",
    "Score",
    "last_layer",
    "outputs_of",
    "usable",
    "usual",
]


def usual() -> list[Score]:
    """One of each score but those that have to be asked for by name, in the order of tables."""
    every = [catalog.get("scores", name) for name in catalog.ordered("scores")]
    return [score() for score in every if not score.on_request]


def __getattr__(name: str) -> Any:
    if name == "SCORES":
        return {each: catalog.get("scores", each) for each in catalog.ordered("scores")}
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
