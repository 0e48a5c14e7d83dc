"""Normal noise on every value."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import normal

info = IMAGENET_C
groups = ("corruptions", "noise")
place = 1
# Standard deviation.
imagenet = (0.08, 0.12, 0.18, 0.26, 0.38)
cifar = (0.04, 0.06, 0.08, 0.09, 0.10)
tiny = imagenet


def gaussian_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add independent normal noise of standard deviation `level` to every value."""
    return images + level * normal(keys, tuple(images.shape[1:]))
