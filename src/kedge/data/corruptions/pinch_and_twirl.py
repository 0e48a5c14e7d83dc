"""Circles drawn together and turned."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import integers

info = C_BAR
groups = ("cbar",)
place = 24
# What Mintun et al. call the severity, 0 to 10, and cells each way.
imagenet = ((4.15, 5), (5.45, 5), (6.75, 5), (8.05, 5), (9.35, 5))
cifar = ((5.5, 3), (6, 3), (6.5, 3), (8.5, 3), (10, 3))
tiny = cifar


def pinch_and_twirl(images: torch.Tensor, level: tuple[float, int], keys: torch.Tensor) -> torch.Tensor:
    """Draw together and turn the inside of a circle in each of n by n cells; level = (severity, n).

    At the share d of the radius, what lies sin(pi d / 2)^-(0.1 + 0.04 severity) times as far out is seen, turned by
    (1 - d)^2 times 9 degrees per severity, clockwise or not at equal chances.
    """
    severity, cells = level
    height, width = images.shape[2:]
    tall, wide = height // cells, width // cells
    if min(tall, wide) == 0:
        return images.clone()
    radius = min(tall, wide) / 2
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    dy = ((row % tall) - tall / 2).view(1, -1, 1)
    dx = ((column % wide) - wide / 2).view(1, 1, -1)
    distance = (dy * dy + dx * dx).sqrt() / radius
    changed = (distance > 1e-3 / radius) & (distance <= 1)
    # what is left of the last whole cell stays
    changed &= (row < tall * cells).view(1, -1, 1) & (column < wide * cells).view(1, 1, -1)
    inside = torch.where(changed, distance, 1.0)
    factor = ((inside * (math.pi / 2)).sin().log() * -(0.1 + 0.04 * severity)).exp()
    direction = integers(keys, (cells * cells,), 0, 2) * 2 - 1
    cell = (row // tall).clamp(max=cells - 1)[:, None] * cells + (column // wide).clamp(max=cells - 1)
    angle = direction[:, cell] * (math.pi / 20 * severity * (1 - inside).square())
    y = torch.where(
        changed, row.view(1, -1, 1) - dy + factor * (dy * angle.cos() - dx * angle.sin()), row.view(1, -1, 1)
    )
    x = torch.where(changed, column - dx + factor * (dy * angle.sin() + dx * angle.cos()), column)
    return pixels.sampled(images, y, x, "zero")
