"""White stars."""

import torch

from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import stream, uniform
from kedge.data.corruptions._star import sides, star

info = C_BAR
groups = ("cbar",)
place = 28
# What Mintun et al. call the severity, 0 to 10.
imagenet = (1, 2, 3, 5, 6)
cifar = (0.7, 3.5, 5.6, 6.3, 7)
tiny = cifar


def sparkles(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Put five white stars of 50 to 199 rays on the image, their radius 0.01 * level of the shorter side."""
    radius = 0.01 * level * min(images.shape[2:])
    for number in range(5):
        own = stream(keys, number)
        place = uniform(stream(own, 0), (2,))
        light = star(own, place * sides(images), radius, 1.0, 1.0, images)
        images = images + light * (1 - images)
    return images
