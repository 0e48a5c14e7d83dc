"""Half a cosine from the full rate down."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kedge.catalog import Info
from kedge.optim.schedules._base import check_warmup, warmed

info = Info(
    "SGDR: Stochastic Gradient Descent with Warm Restarts",
    "Loshchilov and Hutter",
    "ICLR",
    2017,
    "https://arxiv.org/abs/1608.03983",
    "derived",
)


def cosine(optimizer: Optimizer, steps: int, warmup: int = 0, floor: float = 0.0) -> LambdaLR:
    """Half a cosine from the full rate down to `floor` times it at step `steps`, after the warm-up.

    Source: Loshchilov and Hutter, "SGDR", 2017 (one cycle). `steps` counts the whole run, warm-up included.
    """
    check_warmup(steps, warmup)
    if not 0 <= floor <= 1:
        raise ValueError(f"floor is the last rate as a share of the full one, 0 to 1, got {floor}")

    def factor(step: int) -> float:
        done = min(1.0, (step - warmup) / max(1, steps - warmup))
        return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done))

    return LambdaLR(optimizer, warmed(factor, warmup))
