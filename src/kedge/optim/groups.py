"""Which weights decay."""

from collections.abc import Callable
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters in two groups: matrices and kernels decay, the rest does not.

    The rest: biases and the scales of norms (all that have one axis or none), and what the network itself lists
    in `no_weight_decay()`, as timm's do for tokens and position embeddings. A shared parameter is listed once.
    """
    listed: set[str] = set()
    for prefix, module in model.named_modules():
        names: Callable[[], Any] | None = getattr(module, "no_weight_decay", None)
        if callable(names):
            listed |= {f"{prefix}.{name}" if prefix else name for name in names()}
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim <= 1 or name in listed else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
