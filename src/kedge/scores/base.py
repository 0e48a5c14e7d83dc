"""What every score has."""

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor

from kedge.scores.outputs import Outputs, outputs_of


class Score:
    """Base of the scores: higher = more in-distribution.

    Attributes:
        name: short name, as in tables.
        title: the name for people.
        needs: fields of `Outputs` that must not be None, besides `logits`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()

    def fit(self, outputs: Outputs, labels: Tensor) -> "Score":
        """Learn from in-distribution training data, where the score does; here there is nothing to learn."""
        return self

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` scores, higher = more in-distribution. Raises ValueError when `outputs` lacks what it needs."""
        raise NotImplementedError

    def __call__(self, model: Callable[[Tensor], Any], images: Tensor, references: Any = None) -> Tensor:
        """`[B]` scores of `images` `[B, C, H, W]` in [0, 1]: `score(outputs_of(model, images, references))`."""
        return self.score(outputs_of(model, images, references))
