"""A smear along a line."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import uniform

info = IMAGENET_C
groups = ("corruptions", "blur")
place = 6
# Radius, sigma.
imagenet = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
cifar = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))
tiny = ((3, 0.5), (3, 0.75), (3, 1), (3, 1.5), (4, 2.5))


def motion_blur(images: torch.Tensor, level: tuple[int, float], keys: torch.Tensor) -> torch.Tensor:
    """Smear along a line, up to 45 degrees off the horizontal, level = (radius, sigma): see `smeared`."""
    return smeared(images, *level, uniform(keys, (), -45, 45))


def smeared(images: torch.Tensor, radius: int, sigma: float, degrees: torch.Tensor) -> torch.Tensor:
    """Average along the ray that leaves each pixel at an angle, float [B]; edge pixels are repeated.

    ImageMagick's motion blur: 2 * radius + 1 pixels, the one at distance i weighing exp(-i^2 / (2 sigma^2)), at
    positions rounded to whole pixels.
    """
    length = 2 * radius + 1
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(length)]
    total = sum(weights)
    height, width = images.shape[2:]
    wide = pixels.padded(pixels.padded(images, 2, length, length, "edge"), 3, length, length, "edge")
    stride = width + 2 * length
    start = torch.arange(length, length + height)[:, None] * stride + torch.arange(length, length + width)
    start = start.flatten().to(images.device)
    radians = degrees.double() * (math.pi / 180)
    across, down = radians.cos(), radians.sin()
    flat = wide.flatten(2)
    out = images * (weights[0] / total)
    for i in range(1, length):
        offset = (i * down - 0.5).ceil().long() * stride + (i * across - 0.5).ceil().long()
        index = (start + offset[:, None])[:, None].expand(-1, images.shape[1], -1)
        out.add_(flat.gather(2, index).view(images.shape), alpha=weights[i] / total)
    return out
