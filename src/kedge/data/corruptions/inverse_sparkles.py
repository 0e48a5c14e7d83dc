"""White around a hole in the form of a star."""

import math

import torch

from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import stream, uniform
from kedge.data.corruptions._star import sides, star

info = C_BAR
groups = ("cbar",)
place = 23
# What Mintun et al. call the severity, 0 to 10.
imagenet = (1, 2, 4, 9, 10)
cifar = (1, 1.5, 2.5, 4.5, 5)
tiny = cifar


def inverse_sparkles(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Whiten all but a star, of radius a quarter of the shorter side, in the middle half of the image.

    The image fades with distance to the power 0.26 * level.
    """
    place = 0.25 + 0.5 * uniform(stream(keys, 0), (2,))
    radius = 0.25 * min(images.shape[2:])
    visible = star(keys, place * sides(images), radius, 0.13 * level, -math.inf, images)
    return 1 + visible * (images - 1)
