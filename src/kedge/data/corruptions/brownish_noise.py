"""Noise of low frequencies on each channel."""

import torch

from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._noise import coloured

info = C_BAR
groups = ("cbar",)
place = 21
# What Mintun et al. call the severity, 0 to 10.
imagenet = (1, 2, 3, 4, 5)
cifar = (2.5, 4, 5.5, 6.5, 7)
tiny = cifar


def brownish_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add noise of amplitude 1 / (frequency^2 + 1) to each channel, its standard deviation 6.4 / 255 * level."""
    channels, height, width = images.shape[1:]
    return images + 6.4 / 255 * level * coloured(keys, channels, height, width, -2.0)
