"""Weather. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import torch

from kedge.data.corruptions import pixels
from kedge.data.corruptions.blur import smeared
from kedge.data.corruptions.draws import normal, stream, uniform


def brightness(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add `level` to the value of the HSV colour, hue and saturation kept; a grey image gets brighter by `level`."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + level).clamp(0, 1)
    # scaling a colour keeps its hue and saturation; black has none, and becomes grey
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-12)), raised)


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


def snow(images: torch.Tensor, level: tuple[float, ...], keys: torch.Tensor) -> torch.Tensor:
    """Whiten the image and add smeared flakes, once as drawn and once turned by 180 degrees.

    Args:
        level: mean and standard deviation of the draws, their enlargement, the threshold below which there is no
            flake, radius and sigma of the smear (see `smeared`), the share of the image that is not whitened.
    """
    mean, deviation, factor, threshold, radius, sigma, kept = level
    height, width = images.shape[2:]
    flakes = normal(stream(keys, 0), (1, height, width)) * deviation + mean
    if factor > 1:
        flakes = pixels.zoomed(flakes, factor)
    flakes = torch.where(flakes < threshold, torch.zeros_like(flakes), flakes).clamp_(0, 1)
    flakes = smeared(flakes, int(radius), sigma, uniform(stream(keys, 1), (), -135, -45))
    whiter = torch.maximum(images, pixels.luma(images) * 1.5 + 0.5)
    return images * kept + whiter * (1 - kept) + flakes + flakes.flip((2, 3))
