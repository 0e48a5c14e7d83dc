"""How a model comes to the prediction sets of what it says: by its own threshold, or by a majority of its members."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.postprocess._base import Records
from kedge.postprocess._conformal import majority
from kedge.postprocess.prediction_sets import Outlook, PredictionSets

NAME = "prediction_sets"


@dataclass(frozen=True)
class SetRule:
    """Prediction sets of one model, or those that more than half of an ensemble's members agree on.

    Attributes:
        steps: of the model, or of each member.
        coverage: what the sets promise.
        of_members: whether members vote: their logits are then `per_reference` of a prediction.
    """

    steps: Sequence[PredictionSets]
    coverage: float
    of_members: bool = False

    def logits(self, prediction: Any) -> Tensor:
        """`[M, B, C]` of each step, from a `Prediction`."""
        logits: Tensor = prediction.per_reference if self.of_members else prediction.logits[None]
        return logits

    def sets(self, prediction: Any) -> Tensor:
        """Which classes are in the sets, `[B, C]` bool on the CPU, of a `Prediction`."""
        each = zip(self.steps, self.logits(prediction), strict=True)
        return majority(torch.stack([step.sets(logits) for step, logits in each]))

    def usual(self, prediction: Any) -> tuple[Tensor, Tensor]:
        """As of the step; of members as the first one has it."""
        return self.steps[0].usual(self.logits(prediction)[0])

    def outlook(self, images: int, right: int, unfamiliar: int) -> Outlook:
        """As of the step; of members as the first one has it, for what all promise together."""
        own = self.steps[0].outlook(images, right, unfamiliar)
        return Outlook(self.coverage, own.calibrated, own.accuracy, images, right, unfamiliar)


def set_rule(steps: Records, count: int, references: Any = None, coverage: float | None = None) -> SetRule:
    """The rule of a model with these steps that asks `count` references in one prediction (0: it has none).

    Raises:
        ValueError: without prediction sets, for another coverage than theirs, and where they were set on answers with
            another number of references: for those they promise nothing.
    """
    if NAME not in steps:
        wanted = "COVERAGE" if coverage is None else f"{coverage:g}"
        raise ValueError(
            f"the model has no prediction sets: kedge calibrate MODEL --coverage {wanted} sets their threshold on "
            "images that it was not trained on"
        )
    step = PredictionSets(steps[NAME]["value"])
    if coverage is not None and coverage != step.coverage:
        raise ValueError(
            f"the threshold of the prediction sets is for a coverage of {step.coverage:g}, and {coverage:g} has "
            f"another: kedge calibrate MODEL --coverage {coverage:g} sets it"
        )
    asked = steps[NAME].get("references")
    if asked is not None and (isinstance(references, str) or max(1, count) != max(1, asked)):
        now = f"references={references!r}" if isinstance(references, str) else f"{max(1, count)}"
        raise ValueError(
            f"the prediction sets were set on answers with {max(1, asked)} references, and say nothing of answers with "
            f"{now}: ask the whole bank, or set them anew (kedge calibrate MODEL --coverage {step.coverage:g})"
        )
    return SetRule([step], step.coverage)
