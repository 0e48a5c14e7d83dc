"""Gaussian blur."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "extra")
place = 17
# Standard deviation in pixels.
imagenet = (1, 2, 3, 4, 6)
cifar = (0.4, 0.6, 0.7, 0.8, 1)
tiny = cifar


def gaussian_blur(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of `level` pixels, cut at four standard deviations, edge pixels repeated."""
    return pixels.gaussian(images, level)
