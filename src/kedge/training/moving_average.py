"""The moving average of the weights, which is what is validated and saved where a run has one."""

import torch
from timm.utils import ModelEmaV3
from torch import nn

__all__ = ["MovingAverage"]


class MovingAverage(ModelEmaV3):
    """timm's average, moved for all weights at once: `module` is the model with the averaged weights.

    It follows fast at first, or a short run would end near its random start.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        super().__init__(model, decay=decay, use_warmup=True)
        self.requires_grad_(False)

    def follow(self, model: nn.Module) -> None:
        """List what moves with what: naming every tensor in each step took longer than moving a small network's."""
        ours, theirs = (each.state_dict(keep_vars=True).values() for each in (self.module, model))
        # A weight that several layers share has several names, and moves once.
        pairs = {id(mine): (mine.detach(), own.detach()) for mine, own in zip(ours, theirs, strict=True)}.values()
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    def move(self, step: int) -> None:
        """Move towards the weights after `step` steps of the optimizer; buffers of whole numbers are theirs."""
        averages, weights = zip(*self._averaged, strict=True)
        torch._foreach_lerp_(averages, weights, 1 - self.get_decay(step))
        for average, value in self._copied:
            average.copy_(value)
