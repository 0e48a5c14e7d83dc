"""Which weights decay, at which rate each layer learns, and from when on."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["by_layer", "layer_numbers", "parameter_groups", "stage_of", "unfreezing"]

TWELVE = 12  # parameters of a layer, where a network does not say what its layers are
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


def layer_numbers(network: nn.Module, head: str) -> dict[str, int]:
    """Number the layers of `network` from its head, which is 0, to the one at the image, which has the largest.

    A layer is what timm says for its own networks (a block, as a rule); of others it is twelve parameters in the order
    in which they are listed, which is timm's way for networks that say nothing. Names are those of
    `network.named_parameters()`; `head` is the name of the last layer.
    """
    import timm.models

    names = [name for name, _ in network.named_parameters()]
    last = {name for name in names if name.startswith(f"{head}.") or not head}
    body = [name for name in names if name not in last]
    matcher: Callable[..., Any] | None = getattr(network, "group_matcher", None)
    if matcher is None:
        places = {name: i // TWELVE for i, name in enumerate(body)}
    else:
        places = timm.models.group_parameters(network, matcher(coarse=False), reverse=True)
    used = sorted({places[name] for name in body}, reverse=True)
    number = {place: i for i, place in enumerate(used, 1)}
    return {name: 0 if name in last else number[places[name]] for name in names}


def by_layer(
    groups: list[dict[str, Any]],
    numbers: Mapping[nn.Parameter, int],
    lr: float,
    decay: float,
    head: float,
    stages: Sequence[float] = (),
) -> list[dict[str, Any]]:
    """The groups split by layer, with the rate of each: lr·head of the head (layer 0), lr·decay^(n - 1) of layer n.

    Each group has its number as `layer`. The head's come after the others. `stages`: further factors, of the layers cut
    into as many consecutive parts, from the one at the image on (see `stage_of`); a factor of 0 leaves weights alone.
    Source: layer-wise decay, Clark et al., "ELECTRA" (arXiv 2003.10555), as in BEiT.
    """
    split, deepest = [], max(numbers.values(), default=0)
    for group in groups:
        for number in sorted({numbers[p] for p in group["params"]}, key=lambda n: (n == 0, n)):
            rate = lr * (head if number == 0 else decay ** (number - 1))
            if stages and number:
                rate *= stages[stage_of(number, deepest, len(stages))]
            members = [p for p in group["params"] if numbers[p] == number]
            split.append({**group, "params": members, "lr": rate, "layer": number})
    return split


def stage_of(layer: int, deepest: int, stages: int) -> int:
    """Of layers numbered 1 (before the head) to `deepest` (at the image), cut into `stages` parts as even as can be.

    The first part, 0, is at the image. Raises ValueError for more parts than layers.
    """
    if stages > deepest:
        raise ValueError(f"{stages} stages cannot be made of {deepest} layers")
    return (deepest - layer) * stages // deepest


def unfreezing(schedule: LambdaLR, steps: int) -> None:
    """Let the layers go one after another, from the head down: before its turn a layer's rate is 0.

    Changes `schedule`, whose optimizer's groups say their `layer` (see `by_layer`). Head and last layer train from the
    first step, the layer at the image from step `steps`, the others evenly between.
    Source: gradual unfreezing, Howard and Ruder, "ULMFiT" (arXiv 1801.06146).
    """
    numbers = [group["layer"] for group in schedule.optimizer.param_groups]
    deepest = max(numbers)
    for i, number in enumerate(numbers):
        turn = round(steps * max(0, number - 1) / max(1, deepest - 1))
        schedule.lr_lambdas[i] = _from(turn, schedule.lr_lambdas[i])
    for group, base, factor in zip(
        schedule.optimizer.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True
    ):
        group["lr"] = base * factor(0)


def _from(turn: int, factor: Callable[[int], float]) -> Callable[[int], float]:
    return lambda step: factor(step) if step >= turn else 0.0
