"""Thin grey lines."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import stream, uniform

info = C_BAR
groups = ("cbar",)
place = 27
# What Mintun et al. call the severity, 0 to 10.
imagenet = (0.8, 2.4, 4, 5.6, 7.2)
cifar = (0.5, 1, 1.5, 2, 2.5)
tiny = cifar


def lines(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Draw grey lines, one pixel wide and with smooth edges: a tenth times `level` of the shorter side in number.

    They pass through random points, to the length of the shorter side both ways, at angles that differ by up to a
    tenth to all of a turn around a common one. Ends lie at whole pixels.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    count = int(level / 10 * side)
    if count == 0:
        return images.clone()
    common, variation = uniform(stream(keys, 0), (2,)).unbind(1)
    where = uniform(stream(keys, 1), (count, 3))
    middle_y, middle_x = where[..., 0] * height, where[..., 1] * width
    angles = 2 * math.pi * (common[:, None] + (0.1 + 0.9 * variation[:, None]) * (where[..., 2] - 0.5))
    step_y, step_x = angles.cos() * side, angles.sin() * side
    y, x = pixels.places(images)
    uncovered = torch.ones(len(images), height, width, device=images.device)
    for number in range(count):
        at = [v[:, number].trunc().view(-1, 1, 1) for v in (middle_y - step_y, middle_x - step_x)]
        to = [v[:, number].trunc().view(-1, 1, 1) for v in (middle_y + step_y, middle_x + step_x)]
        dy, dx = to[0] - at[0], to[1] - at[1]
        length = (dy * dy + dx * dx).sqrt().clamp(min=1)
        along = ((y - at[0]) * dy + (x - at[1]) * dx) / length
        cover = (1 - ((y - at[0]) * dx - (x - at[1]) * dy).abs() / length).clamp(min=0)
        uncovered = uncovered * (1 - cover * ((along >= 0) & (along <= length)))
    uncovered = uncovered[:, None]
    return images * uncovered + pixels.GREY * (1 - uncovered)
