"""Batch-norm layers that normalise with the statistics of what passes through them, while a switch is on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kedge.anchoring.stem import at_least_float32


@dataclass
class Switch:
    """Whether the statistics of the batch are in force, and for how many images the stored ones count."""

    prior: float
    on: bool = True


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of a model, those of timm and torchvision among them."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def use_batch_statistics(layers: list[_BatchNorm], switch: Switch) -> None:
    """Have layers in eval mode normalise with the batch wherever the switch is on.

    A layer without stored statistics does so anyway. Done to what the layer reads, so that every kind of it does as it
    did otherwise, and gradients go through the statistics.
    """
    for layer in layers:
        if layer.running_mean is not None:
            layer.register_forward_pre_hook(_hook(switch))


def _hook(switch: Switch) -> Callable[..., tuple[Tensor, ...] | None]:
    def shifted(layer: Any, arguments: tuple[Any, ...]) -> tuple[Tensor, ...] | None:
        """x scaled and shifted so that the stored statistics normalise it as those of the mixture would."""
        if not switch.on:
            return None
        (x,) = arguments
        wide = x.to(at_least_float32(x))
        stored_mean, stored_var = layer.running_mean.to(wide), layer.running_var.to(wide)
        var, mean = torch.var_mean(wide, [0, *range(2, x.ndim)], correction=0)
        if switch.prior:
            share = switch.prior / (switch.prior + len(x))
            mean, var = torch.lerp(mean, stored_mean, share), torch.lerp(var, stored_var, share)
        scale = ((stored_var + layer.eps) / (var + layer.eps)).sqrt()
        shape = (1, -1, *[1] * (x.ndim - 2))
        return ((wide * scale.view(shape) + (stored_mean - mean * scale).view(shape)).to(x.dtype),)

    return shifted
