"""Grey squares of a turned chessboard."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import stream, uniform

info = C_BAR
groups = ("cbar",)
place = 22
# What Mintun et al. call the severity, 0 to 10.
imagenet = (2, 3, 4, 5, 6)
cifar = (1, 2, 3, 4, 5)
tiny = cifar

_CELLS = 32  # of a checkerboard, each way; an image meets fewer than 30


def checkerboard_cutout(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Cover a tenth times `level` of the black squares of a turned chessboard with grey.

    The squares are 0.1 to 0.25 of the shorter side wide.
    """
    height, width = images.shape[2:]
    angle, size = uniform(stream(keys, 0), (2,)).unbind(1)
    angle = (angle * (2 * math.pi)).view(-1, 1, 1)
    size = ((0.1 + 0.15 * size) * min(height, width)).clamp(min=1).view(-1, 1, 1)
    y, x = pixels.places(images)
    across = (angle.cos() * y + angle.sin() * x) / size
    down = (angle.cos() * x - angle.sin() * y) / size
    black = across.floor().long() % 2 == down.floor().long() % 2
    # rounded towards zero, as published: the squares about the axes share their chance
    cell = (across.trunc().long() % _CELLS) * _CELLS + down.trunc().long() % _CELLS
    chosen = uniform(stream(keys, 1), (_CELLS**2,)) < level / 10
    covered = black & chosen.gather(1, cell.flatten(1)).view(cell.shape)
    return torch.where(covered[:, None], pixels.GREY, images)
