"""Normal noise in proportion to the value."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import normal

info = IMAGENET_C
groups = ("corruptions", "extra")
place = 16
# Standard deviation as a share of the value.
imagenet = (0.15, 0.2, 0.35, 0.45, 0.6)
cifar = (0.06, 0.1, 0.12, 0.16, 0.2)
tiny = imagenet


def speckle_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add normal noise whose standard deviation is `level` times the value itself."""
    return images + images * (level * normal(keys, tuple(images.shape[1:])))
