"""The value of the HSV colour raised."""

import torch

from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "weather")
place = 11
# Added to the HSV value.
imagenet = (0.1, 0.2, 0.3, 0.4, 0.5)
cifar = (0.05, 0.1, 0.15, 0.2, 0.3)
tiny = imagenet


def brightness(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add `level` to the value of the HSV colour, hue and saturation kept; a grey image gets brighter by `level`."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + level).clamp(0, 1)
    # scaling a colour keeps its hue and saturation; black has none, and becomes grey
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-12)), raised)
