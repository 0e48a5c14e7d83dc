"""Features of an image without any network: its small colours, and which way its edges run where."""

import torch
from torch import Tensor

from kedge.auditing.looks import Looks

__all__ = ["NAME", "pixel_features"]

NAME = "pixels (small colours and directions of edges), no network"
CELL, DIRECTIONS = 8, 8  # px and bins of the histograms of gradients


def pixel_features(looks: Looks) -> Tensor:
    """`[N, 1280]`: 16 x 16 colours, and the histograms of gradients of Dalal & Triggs, CVPR 2005, in 8 x 8 cells.

    Weak for photos, good for digits and the like. Each half has the same mean square.
    """
    grey = looks.grey
    down, across = torch.zeros_like(grey), torch.zeros_like(grey)
    down[:, 1:-1], across[:, :, 1:-1] = grey[:, 2:] - grey[:, :-2], grey[:, :, 2:] - grey[:, :, :-2]
    length = (down.square() + across.square()).sqrt()
    angle = torch.atan2(down, across).remainder(torch.pi) / torch.pi * DIRECTIONS
    apart = [((angle - b + DIRECTIONS / 2).remainder(DIRECTIONS) - DIRECTIONS / 2).abs() for b in range(DIRECTIONS)]
    bins = torch.stack([length * (1 - each).clamp(min=0) for each in apart], 1)
    cells = torch.nn.functional.avg_pool2d(bins, CELL).flatten(2)
    cells = cells / (cells.square().sum(1, keepdim=True) + 1e-3).sqrt()
    return torch.cat([_even(looks.colour.flatten(1)), _even(cells.flatten(1))], 1)


def _even(values: Tensor) -> Tensor:
    """Centred, with a mean square of 1."""
    centred = values - values.mean(0)
    return centred / centred.square().mean().sqrt().clamp(min=1e-6)
