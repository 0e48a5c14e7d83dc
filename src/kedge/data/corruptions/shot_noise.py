"""Poisson counts in place of values: few photons, much noise."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import poisson

info = IMAGENET_C
groups = ("corruptions", "noise")
place = 2
# Photons that make a value of 1.
imagenet = (60, 25, 12, 5, 3)
cifar = (500, 250, 100, 75, 50)
tiny = imagenet


def shot_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Replace every value v by a Poisson count of mean v * level, divided by `level`: few photons, much noise."""
    return poisson(keys, images * level) / level
