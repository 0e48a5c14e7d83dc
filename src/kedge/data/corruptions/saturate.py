"""The saturation of the HSV colour scaled and shifted."""

import torch

from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "extra")
place = 19
# Factor, shift.
imagenet = ((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2))
cifar = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))
tiny = imagenet


def saturate(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Set the saturation of the HSV colour to factor * saturation + shift, level = (factor, shift).

    As published, grey pixels count as red of saturation 0, so that a shift makes them reddish. Images with another
    number of channels than three have no saturation and stay as they are.
    """
    if images.shape[1] != 3:
        return images.clone()
    factor, shift = level
    value = images.amax(1, keepdim=True)
    span = value - images.amin(1, keepdim=True)
    saturation = (span / value.clamp(min=1e-12) * factor + shift).clamp(0, 1)
    # how far each channel lies below the highest, 0 to 1; red: (0, 1, 1)
    red = torch.tensor([0.0, 1, 1], device=images.device).view(1, 3, 1, 1)
    below = torch.where(span > 0, (value - images) / span.clamp(min=1e-12), red)
    return value * (1 - saturation * below)
