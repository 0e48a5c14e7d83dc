"""Learning rates as ordinary LambdaLR schedulers, stepped once after each optimizer step.

All warm up linearly: step i of `warmup` steps (counted from 0) runs at (i + 1) / warmup of the full rate, so the
first step already learns something and step `warmup` runs at the full rate.
"""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["constant", "cosine", "multistep", "unfreezing"]


def cosine(optimizer: Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    """Half a cosine from the full rate down to `floor` times it at step `steps`, after the warm-up.

    Source: Loshchilov and Hutter, "SGDR", 2017 (one cycle). `steps` counts the whole run, warm-up included.
    """
    _check(steps, warmup)

    def factor(step: int) -> float:
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, _warmed(factor, warmup))


def multistep(optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.2, warmup: int = 0) -> LambdaLR:
    """The full rate, multiplied by `gamma` once at each of `milestones` (steps), after the warm-up."""
    if list(milestones) != sorted(milestones) or any(m < 1 for m in milestones):
        raise ValueError(f"milestones are rising step numbers above 0, not {list(milestones)}")
    _check(max(milestones, default=warmup + 1), warmup)
    return LambdaLR(optimizer, _warmed(lambda step: gamma ** sum(step >= m for m in milestones), warmup))


def constant(optimizer: Optimizer, warmup: int = 0) -> LambdaLR:
    """The full rate throughout, after the warm-up."""
    _check(warmup + 1, warmup)
    return LambdaLR(optimizer, _warmed(lambda step: 1.0, warmup))


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


def _warmed(factor: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    return lambda step: (step + 1) / warmup if step < warmup else factor(step)


def _check(steps: int, warmup: int) -> None:
    if warmup < 0 or warmup >= steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps}: it must be shorter")
