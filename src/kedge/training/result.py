"""What a run leaves."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kedge.anchoring import PixelModel
from kedge.training.recipe import Recipe

__all__ = ["RunResult"]


@dataclass
class RunResult:
    """What a run leaves.

    Attributes:
        folder: the run's folder.
        recipe: as it was run, nothing left open.
        model: the trained model in eval mode, on the CPU; the one in `folder/model`.
        history: a row per epoch, as in metrics.csv.
        validation: accuracy, nll and ece of the model with its whole bank on the validation images.
        report: the page, or None if it could not be made.
        robust: of a run that attacks: {eps, norm, steps, images, kept, best and last: {epoch, accuracy, pgd}}, on the
            validation images; None of any other.
        beside: accuracy, nll and ece of the models in best/ and last/, where there are such, as `validation`.
        images: how many validation images these numbers are of.
        folds: of a run that cross-validation judged: {folds, images, start, trained, share, accuracy, each}, start and
            trained only where it began with a trained model; `validation` is then of the images of all folds, each
            judged by a model of the other folds. None of any other.
    """

    folder: Path
    recipe: Recipe
    model: PixelModel
    history: list[dict[str, Any]]
    validation: dict[str, float]
    report: Path | None
    robust: dict[str, Any] | None = None
    beside: dict[str, dict[str, float]] = field(default_factory=dict)
    images: int = 0
    folds: dict[str, Any] | None = None
