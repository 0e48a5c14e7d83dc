"""Clouds, scaled back to the image's highest value."""

import torch

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import uniform

info = IMAGENET_C
groups = ("corruptions", "weather")
place = 10
# Thickness, decay.
imagenet = ((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4))
cifar = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))
tiny = cifar


def fog(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Add clouds and scale back to the image's own highest value; level = (thickness, decay): see `plasma`."""
    thickness, decay = level
    height, width = images.shape[2:]
    highest = images.amax(dim=(1, 2, 3), keepdim=True)
    clouds = plasma(keys, max(height, width), decay)[:, None, :height, :width]
    return (images + thickness * clouds) * (highest / (highest + thickness))


def plasma(keys: torch.Tensor, size: int, decay: float) -> torch.Tensor:
    """Return clouds in [0, 1], float32 [B, S, S], S the power of two at or above `size`.

    Diamond-square on a torus: midpoints are the mean of their four neighbours plus a uniform draw, the range of which
    shrinks by the square of `decay` each time the grid is halved.
    """
    side = 1 << max(1, (size - 1).bit_length())
    # every pixel is filled once, so that it has one draw
    clouds = uniform(keys, (side, side), -1, 1)
    clouds[:, 0, 0] = 0
    step, wobble = side, 1.0
    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        rows = corners + corners.roll(-1, 1)
        middle = clouds[:, half::step, half::step]
        middle.mul_(wobble).add_((rows + rows.roll(-1, 2)) / 4)
        above = middle + middle.roll(1, 1) + (corners + corners.roll(-1, 2))
        left = middle + middle.roll(1, 2) + (corners + corners.roll(-1, 1))
        clouds[:, ::step, half::step].mul_(wobble).add_(above / 4)
        clouds[:, half::step, ::step].mul_(wobble).add_(left / 4)
        step, wobble = half, wobble / decay**2
    low, high = clouds.amin((1, 2), keepdim=True), clouds.amax((1, 2), keepdim=True)
    return (clouds - low) / (high - low)
