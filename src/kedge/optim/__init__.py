"""Schedules and parameter groups for ordinary `torch.optim` optimizers."""

from kedge.optim.groups import parameter_groups
from kedge.optim.schedules import constant, cosine, multistep

__all__ = ["constant", "cosine", "multistep", "parameter_groups"]
