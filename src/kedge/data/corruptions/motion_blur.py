"""A smear along a line."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import uniform

info = IMAGENET_C
groups = ("corruptions", "blur")
place = 6
# Radius, sigma.
imagenet = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
cifar = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
tiny = ((3, 0.5), (3, 0.75), (3, 1), (3, 1.5), (4, 2.5))


def motion_blur(images: torch.Tensor, level: tuple[int, float], keys: torch.Tensor) -> torch.Tensor:
    """Smear along a line, up to 45 degrees off the horizontal, level = (radius, sigma): see `pixels.smeared`."""
    return pixels.smeared(images, *level, uniform(keys, (), -45, 45))
