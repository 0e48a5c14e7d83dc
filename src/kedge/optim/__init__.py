"""Schedules and parameter groups for ordinary `torch.optim` optimizers."""

from kedge.optim.groups import parameter_groups, with_own_rate
from kedge.optim.schedules import constant, cosine, multistep
from kedge.optim.slow_start import SlowStartFastDecay, SlowStartHalving

__all__ = [
    "SlowStartFastDecay",
    "SlowStartHalving",
    "constant",
    "cosine",
    "multistep",
    "parameter_groups",
    "with_own_rate",
]
