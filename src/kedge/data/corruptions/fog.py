"""Clouds, scaled back to the image's highest value."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._noise import plasma

info = IMAGENET_C
groups = ("corruptions", "weather")
place = 10
# Thickness, decay.
imagenet = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
cifar = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
tiny = cifar


def fog(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Add clouds and scale back to the image's own highest value; level = (thickness, decay): see `plasma`."""
    thickness, decay = level
    height, width = images.shape[2:]
    highest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = plasma(keys, max(height, width), decay)[:, None, :height, :width]
    return (images + thickness * clouds) * (highest / (highest + thickness))
