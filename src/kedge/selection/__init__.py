"""Which images are worth training on: a score of each by models early in training, and a list made by it."""

from typing import Any

from kedge import catalog
from kedge.selection._base import check_choice, choose, of_checkpoints, score
from kedge.selection._file import Selection

__all__ = ["Selection", "check_choice", "choose", "of_checkpoints", "score"]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)
