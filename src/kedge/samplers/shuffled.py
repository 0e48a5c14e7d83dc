"""Every image once, in a random order."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.seeds import generator

info = Info("Random reshuffling", checked="own")


def shuffled(labels: Tensor, epoch: int, seed: int) -> Tensor:
    """A permutation of the N images of `labels` `[N]`, long `[N]`."""
    return torch.randperm(len(labels), generator=generator(seed, "order", epoch))
