"""Batch norm over the rows of all processes: each layer as it is, its statistics those of the whole batch."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

__all__ = ["batch_norm_of_all", "synchronised_batch_norm"]


class synchronised_batch_norm(TorchFunctionMode):
    """Within, `torch.nn.functional.batch_norm` normalises by, and records, the statistics of all processes' rows.

    The layers stay what they are, whatever class of batch norm they have (timm's holds its activation), so that a
    model is copied, folded and saved as ever; `torch.nn.SyncBatchNorm` would take their place.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Stand in for batch norm in training."""
        keywords: Mapping[str, Any] = kwargs or {}
        if func is not F.batch_norm:
            return func(*args, **keywords)
        names = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
        values: dict[str, Any] = {"weight": None, "bias": None, "training": False, "momentum": 0.1, "eps": 1e-5}
        values |= {**dict(zip(names, args, strict=False)), **keywords}
        if not values.pop("training"):
            return func(*args, **keywords)
        return batch_norm_of_all(**values)


def batch_norm_of_all(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
) -> Tensor:
    """`F.batch_norm(..., training=True)` of `input` `[B, C, ...]` as one process with all rows would compute it.

    Parameters get the gradient of this process's rows, to be summed or averaged over processes with the others.
    A process may have no rows. On CUDA it is torch's own kernel.
    """
    if input.is_cuda:
        from torch.nn.modules._functions import SyncBatchNorm

        group, world = dist.group.WORLD, dist.get_world_size()
        out: Tensor = SyncBatchNorm.apply(input, weight, bias, running_mean, running_var, eps, momentum, group, world)
        return out
    out = _BatchNormOfAll.apply(input, running_mean, running_var, weight, bias, momentum, eps)
    return out


class _BatchNormOfAll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        weight: Tensor | None,
        bias: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        over = [d for d in range(x.ndim) if d != 1]
        own = x.numel() // x.shape[1]
        mean = wide.mean(over) if own else wide.new_zeros(x.shape[1])
        squares = (wide - _wide(mean, x)).square().sum(over)
        # Means and sums of squares about them, combined as Chan, Golub and LeVeque (1979) do: nothing cancels.
        part = torch.cat([mean, squares, mean.new_tensor([own])])
        parts = [torch.empty_like(part) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, part)
        means, sums, counts = torch.stack(parts).split([x.shape[1], x.shape[1], 1], 1)
        total = counts.sum()
        if int(total) < 2:
            raise ValueError(f"Expected more than 1 value per channel when training, got input size {list(x.shape)}")
        mean = (means * counts).sum(0) / total
        variance = (sums + counts * (means - mean).square()).sum(0) / total
        if running_mean is not None and running_var is not None:
            running_mean.lerp_(mean.to(running_mean), momentum)
            running_var.lerp_((variance * (total / (total - 1))).to(running_var), momentum)
        scale = (variance + eps).rsqrt()
        normal = (wide - _wide(mean, x)) * _wide(scale, x)
        ctx.save_for_backward(normal, scale, weight, total)
        ctx.has_bias = bias is not None
        out = normal if weight is None else normal * _wide(weight.to(normal), x)
        return (out if bias is None else out + _wide(bias.to(normal), x)).to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        normal, scale, weight, total = ctx.saved_tensors
        over = [d for d in range(normal.ndim) if d != 1]
        wide = gradient.to(normal.dtype)
        of_bias, of_weight = wide.sum(over), (wide * normal).sum(over)
        sums = torch.stack([of_bias, of_weight])
        dist.all_reduce(sums)
        first, second = sums / total
        inside = wide - _wide(first, normal) - normal * _wide(second, normal)
        factor = scale if weight is None else scale * weight.to(scale)
        of_input = (inside * _wide(factor, normal)).to(gradient.dtype)
        theirs = None if weight is None else of_weight.to(weight.dtype)
        return of_input, None, None, theirs, (of_bias.to(gradient.dtype) if ctx.has_bias else None), None, None


def _wide(values: Tensor, like: Tensor) -> Tensor:
    """Values `[C]` along the second axis of `like`."""
    return values.view(1, -1, *[1] * (like.ndim - 2))
