"""Smeared flakes on a whitened image."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import normal, stream, uniform

info = IMAGENET_C
groups = ("corruptions", "weather")
place = 8
# Mean, deviation, enlargement, threshold, radius, sigma, share not whitened.
imagenet = (
    (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
    (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
    (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
    (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
    (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
)
cifar = (
    (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
    (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
    (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
    (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
    (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
)
tiny = (
    (0.1, 0.2, 1, 0.6, 3, 1, 0.95),
    (0.1, 0.2, 1, 0.5, 3, 1, 0.9),
    (0.15, 0.3, 1, 0.55, 3, 1, 0.85),
    (0.25, 0.3, 1, 0.6, 3, 1.5, 0.8),
    (0.3, 0.3, 1, 0.6, 3, 2, 0.7),
)


def snow(images: torch.Tensor, level: tuple[float, ...], keys: torch.Tensor) -> torch.Tensor:
    """Whiten the image and add smeared flakes, once as drawn and once turned by 180 degrees.

    Args:
        level: mean and standard deviation of the draws, their enlargement, the threshold below which there is no
            flake, radius and sigma of the smear (see `pixels.smeared`), the share of the image that is not whitened.
    """
    mean, deviation, factor, threshold, radius, sigma, unwhitened = level
    height, width = images.shape[2:]
    flakes = normal(stream(keys, 0), (1, height, width)) * deviation + mean
    if factor > 1:
        flakes = pixels.zoomed(flakes, factor)
    flakes = torch.where(flakes < threshold, torch.zeros_like(flakes), flakes).clamp_(0, 1)
    flakes = pixels.smeared(flakes, int(radius), sigma, uniform(stream(keys, 1), (), -135, -45))
    whiter = torch.maximum(images, pixels.luma(images) * 1.5 + 0.5)
    return images * unwhitened + whiter * (1 - unwhitened) + flakes + flakes.flip((2, 3))
