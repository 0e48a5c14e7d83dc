"""The full rate, multiplied by a factor after some epochs."""

from collections.abc import Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kedge.catalog import Info
from kedge.optim.schedules._base import check_warmup, warmed

info = Info("Step decay of the learning rate", checked="own")

EXAMPLE = "{multistep: {milestones: [30, 60]}}"


def multistep(optimizer: Optimizer, milestones: Sequence[int], gamma: float = 0.2, warmup: int = 0) -> LambdaLR:
    """The full rate, multiplied by `gamma` once at each of `milestones` (steps), after the warm-up."""
    if list(milestones) != sorted(milestones) or any(m < 1 for m in milestones):
        raise ValueError(f"milestones are rising step numbers above 0, not {list(milestones)}")
    check_warmup(max(milestones, default=warmup + 1), warmup)
    return LambdaLR(optimizer, warmed(lambda step: gamma ** sum(step >= m for m in milestones), warmup))


def for_run(
    optimizer: Optimizer, steps_per_epoch: int, milestones: Sequence[float], gamma: float = 0.2, warmup: int = 0
) -> LambdaLR:
    """As `multistep`, with `milestones` in epochs; the warm-up ends before the first of them."""
    steps = [max(1, round(epoch * steps_per_epoch)) for epoch in milestones]
    return multistep(optimizer, steps, gamma, min(warmup, steps[0] - 1))
