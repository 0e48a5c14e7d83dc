"""What happened as a model adapted to a stream of images."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Record:
    """What happened in a stream.

    Attributes:
        images, batches: how many were answered.
        as_before: how many images the model as it was answered.
        steps: how many were taken.
        chosen: how many images they were taken on.
        looks: the kept images at each look of the brake: batch (from 1, before it), accuracy, auroc.
        held: where the brake held: batch, why, back_to.
    """

    images: int = 0
    batches: int = 0
    as_before: int = 0
    steps: int = 0
    chosen: int = 0
    looks: list[dict[str, Any]] = field(default_factory=list)
    held: list[dict[str, Any]] = field(default_factory=list)

    def hold(self, why: str, back_to: str) -> None:
        """Note that the brake held before the next batch."""
        self.held.append({"batch": self.batches + 1, "why": why, "back_to": back_to})

    def words(self) -> list[str]:
        """Where the brake held, in words."""
        return [f"at batch {each['batch']}: {each['why']}; back to {each['back_to']}" for each in self.held]
