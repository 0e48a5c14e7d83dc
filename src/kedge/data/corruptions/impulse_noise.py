"""Some values set to 0 or to 1."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import uniform

info = IMAGENET_C
groups = ("corruptions", "noise")
place = 3
# Share of the values.
imagenet = (0.03, 0.06, 0.09, 0.17, 0.27)
cifar = (0.01, 0.02, 0.03, 0.05, 0.07)
tiny = imagenet


def impulse_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Set a share `level` of all values, each channel for itself, to 0 or to 1 at equal chances."""
    draw = uniform(keys, tuple(images.shape[1:]))
    return torch.where(draw < level, (draw < level / 2).float(), images)
