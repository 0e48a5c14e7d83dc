"""Which weights decay."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import nn

__all__ = ["parameter_groups", "with_own_rate"]

NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Split the trainable parameters in two groups: matrices and kernels decay, the rest does not.

    The rest: biases, the scales of norms, all else that has one axis or none, and what the network itself lists in
    `no_weight_decay()`, as timm's do for tokens and position embeddings. A shared parameter is listed once.
    """
    listed: set[str] = set()
    for prefix, module in model.named_modules():
        if isinstance(module, NORMS):
            listed |= {f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters(recurse=False)}
        names: Callable[[], Any] | None = getattr(module, "no_weight_decay", None)
        if callable(names):
            listed |= {f"{prefix}.{name}" if prefix else name for name in names()}
    decay: list[nn.Parameter] = []
    no_decay: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (no_decay if parameter.ndim <= 1 or name.endswith("bias") or name in listed else decay).append(parameter)
    groups = [
        {"params": decay, "weight_decay": weight_decay},
        {"params": no_decay, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def with_own_rate(groups: list[dict[str, Any]], parameters: Iterable[nn.Parameter], lr: float) -> list[dict[str, Any]]:
    """The groups with `parameters` in groups of their own, which have the learning rate `lr` and the same decay."""
    own = {id(p) for p in parameters}
    split = []
    for group in groups:
        rest = [p for p in group["params"] if id(p) not in own]
        apart = [p for p in group["params"] if id(p) in own]
        split += [{**group, "params": rest}] if rest else []
        split += [{**group, "params": apart, "lr": lr}] if apart else []
    return split
