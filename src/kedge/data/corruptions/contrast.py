"""The distance from the mean scaled."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "digital")
place = 12
# Factor.
imagenet = (0.4, 0.3, 0.2, 0.1, 0.05)
cifar = (0.75, 0.5, 0.4, 0.3, 0.15)
tiny = imagenet


def contrast(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Scale every channel's distance from its mean over the image by `level`."""
    mean = pixels.mean(images)
    return (images - mean) * level + mean
