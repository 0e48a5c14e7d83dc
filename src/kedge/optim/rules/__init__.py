"""Rules by which a step moves the weights: `torch.optim` optimizers, and wrappers round one."""

from kedge.optim.rules._base import Wrapper

__all__ = ["Wrapper"]
