"""Pixels blackened where noise of high frequencies is low."""

import torch

from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._noise import coloured

info = C_BAR
groups = ("cbar",)
place = 20
# What Mintun et al. call the severity, 0 to 10.
imagenet = (0.8, 1.6, 2.4, 4, 5.6)
cifar = (0.7, 1.4, 2.1, 3.5, 4.2)
tiny = cifar


def blue_noise_sample(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Blacken the pixels where noise of an amplitude that grows with frequency lies below 0.3 * level - 2.5."""
    noise = coloured(keys, 1, images.shape[2], images.shape[3], 1.0)
    return images * (noise > 0.3 * level - 2.5)
