"""Layers that begin to learn one after another."""

from collections.abc import Callable

from torch.optim.lr_scheduler import LambdaLR

__all__ = ["unfreezing"]


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
