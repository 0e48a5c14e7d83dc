"""Schedules and parameter groups for ordinary `torch.optim` optimizers."""

from kedge.optim.groups import by_layer, layer_numbers, parameter_groups
from kedge.optim.schedules import constant, cosine, multistep, unfreezing
from kedge.optim.slow_start import SlowStartFastDecay, SlowStartHalving

__all__ = [
    "SlowStartFastDecay",
    "SlowStartHalving",
    "by_layer",
    "constant",
    "cosine",
    "layer_numbers",
    "multistep",
    "parameter_groups",
    "unfreezing",
]
