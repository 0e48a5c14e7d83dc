"""Rows and columns shifted by sine waves."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import uniform

info = C_BAR
groups = ("cbar",)
place = 25
# What Mintun et al. call the severity, 0 to 10.
imagenet = (3.25, 4.75, 6.25, 7.75, 9.25)
cifar = (5.5, 6, 6.5, 7.5, 8)
tiny = cifar


def ripple(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Shift rows and columns by sine waves of amplitude 0.0025 * level of the shorter side.

    Wavelengths are 0.1 to 0.3 of that side, phases random; black comes in from outside.
    """
    height, width = images.shape[2:]
    amplitude = 0.0025 * level * min(height, width)
    draws = uniform(keys, (2, 2))

    def waved(axis: int, length: int) -> torch.Tensor:
        place = torch.arange(length, device=images.device, dtype=torch.float32)
        wavelength = (0.1 + 0.2 * draws[:, 0, axis : axis + 1]) * min(height, width)
        phase = draws[:, 1, axis : axis + 1] * (2 * math.pi)
        return place + amplitude * (2 * math.pi * place / wavelength + phase).sin()

    y = waved(0, height)[:, :, None].expand(-1, -1, width)
    x = waved(1, width)[:, None].expand(-1, height, -1)
    return pixels.sampled(images, y, x, "zero")
