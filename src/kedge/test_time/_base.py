"""What a method of this room is: how batch-norm layers normalise, and what a step on a batch minimises."""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn


class Adapter:
    """A way to adapt to the images that come.

    Attributes:
        learns: whether it takes steps; else only statistics change.
        prior: for how many images the stored statistics of a layer count beside those of the batch: 0 for the batch
            alone.
        original: the statistics of the model as it was where steps are chosen by it, "stored" or "batch"; None where
            they are not.
    """

    room = "test_time"
    learns: ClassVar[bool] = False
    original: Literal["stored", "batch"] | None = None

    def __init__(self, prior: float = 0.0) -> None:
        """Raises ValueError for a prior that is negative or not finite."""
        if not 0 <= prior < math.inf:
            raise ValueError(f"prior is a number of images, 0 or more, got {prior}")
        self.prior = float(prior)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """A new optimizer of the scales and shifts."""
        raise NotImplementedError

    def chosen(self, logits: Tensor, original: Tensor | None) -> Tensor:
        """The images `[B]`, bool, that a step is taken on; `original`: logits `[B, C]` of the model as it was."""
        return torch.ones(len(logits), dtype=torch.bool, device=logits.device)

    def loss(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """What a step on the batch, `[B, C]` with gradients, minimises; some of the images are `chosen`."""
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Its arguments, for the record."""
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


def entropy(logits: Tensor) -> Tensor:
    """The entropy of softmax(logits) of each row, `[B]` in nats; a class at minus infinity counts nothing."""
    log_probs = logits.float().log_softmax(1)
    return -(log_probs.exp() * log_probs.clamp(min=-1e4)).sum(1)
