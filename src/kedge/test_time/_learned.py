"""The scales and shifts of batch norm that adapt, what they were at first, and the way back."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


class Learned:
    """Weights that learn, and nothing else of a model.

    Attributes:
        weights: of batch-norm layers the scale and the shift, where they have them.
        first: what they were.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        self.weights = [w for layer in layers for w in (layer.weight, layer.bias) if w is not None]
        self.first = self.snapshot()

    def snapshot(self) -> list[Tensor]:
        """What they are now, copied."""
        return [w.detach().clone() for w in self.weights]

    @torch.no_grad()
    def restore(self, values: list[Tensor]) -> None:
        """Give them these values."""
        for weight, value in zip(self.weights, values, strict=True):
            weight.copy_(value)

    @contextmanager
    def as_first(self) -> Iterator[None]:
        """With what they were at first."""
        now = self.snapshot()
        self.restore(self.first)
        try:
            yield
        finally:
            self.restore(now)

    @contextmanager
    def with_gradients(self) -> Iterator[None]:
        """With gradients, for these weights alone."""
        for weight in self.weights:
            weight.requires_grad_(True)
        try:
            with torch.enable_grad():
                yield
        finally:
            for weight in self.weights:
                weight.requires_grad_(False)
