"""The full rate throughout."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kedge.catalog import Info
from kedge.optim.schedules._base import check_warmup, warmed

info = Info("A constant learning rate", checked="own")


def constant(optimizer: Optimizer, warmup: int = 0) -> LambdaLR:
    """The full rate throughout, after the warm-up."""
    check_warmup(warmup + 1, warmup)
    return LambdaLR(optimizer, warmed(lambda step: 1.0, warmup))
