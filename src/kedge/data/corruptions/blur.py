"""Blurs. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import math

import numpy as np
import torch

from kedge.data.corruptions import pixels
from kedge.data.corruptions.draws import integers, stream, uniform


def gaussian_blur(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of `level` pixels, cut at four standard deviations, edge pixels repeated."""
    return pixels.gaussian(images, level)


def defocus_blur(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Average over a disc: level is its radius and the standard deviation of the blur of its rim, in pixels.

    Beyond the border the image is mirrored about its edge pixels.
    """
    return pixels.convolved(images, disc(*level))


def disc(radius: float, sigma: float) -> np.ndarray:
    """Return the kernel of `defocus_blur`, [2r + 1, 2r + 1] with sum 1, r the larger of 8 and the radius."""
    reach = 8 if radius <= 8 else int(radius)
    axis = np.arange(-reach, reach + 1)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    size = 1 if radius <= 8 else 2  # the rim's blur reaches this far
    weights = np.exp(-0.5 * (np.arange(-size, size + 1) / sigma) ** 2)
    weights /= weights.sum()
    for axis_number in (0, 1):
        wide = np.pad(kernel, [(size, size) if a == axis_number else (0, 0) for a in (0, 1)], mode="reflect")
        shifted = [wide.take(range(i, i + len(kernel)), axis_number) for i in range(2 * size + 1)]
        kernel = sum(w * s for w, s in zip(weights, shifted, strict=True))
    kernel[kernel < 1e-9] = 0  # 1e-9 of the light or less, far below float32
    return kernel


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


def zoom_blur(images: torch.Tensor, level: tuple[float, ...], keys: torch.Tensor) -> torch.Tensor:
    """Average the image with its middle enlarged by each factor of `level`."""
    turned = images.transpose(2, 3).contiguous()
    total = turned.clone()
    for factor in level:
        total += turned if factor == 1 else pixels.zoomed_turned(images, factor)
    return (total / (len(level) + 1)).transpose(2, 3)


def glass_blur(images: torch.Tensor, level: tuple[float, int, int], keys: torch.Tensor) -> torch.Tensor:
    """Blur, move pixels about locally, blur again; level = (sigma, largest move, rounds).

    As published, a round goes through the image from the last pixel to the first, and every pixel further from the
    border than the largest move d takes over the value that a pixel -d to d - 1 rows and columns away has at that
    moment. (The published code means to exchange the two, but the value written first is the one then read back.)
    Where each value comes from is found for all pixels at once by following the chain of copies, doubling the step.
    Values are cut to 256 levels after the first blur, as published.
    """
    sigma, reach, rounds = level
    # the small term, below what the blur of whole levels can make, keeps k / 255 at level k in float32
    images = (pixels.gaussian(images, sigma) * 255 + 1e-4).floor_() / 255
    batch, channels, height, width = images.shape
    source = torch.arange(height * width, device=images.device).expand(batch, -1)
    for number in range(rounds):
        source = source.gather(1, _copied_from(stream(keys, number), height, width, reach))
    images = images.flatten(2).gather(2, source[:, None].expand(-1, channels, -1)).view(images.shape)
    return pixels.gaussian(images, sigma)


def _copied_from(keys: torch.Tensor, height: int, width: int, reach: int) -> torch.Tensor:
    """Return the pixel whose value each pixel has after a round, as indices long [B, H * W]."""
    place = torch.arange(height * width, device=keys.device)
    row, column = place // width, place % width
    moved = (row > reach) & (row <= height - reach) & (column > reach) & (column <= width - reach)
    move = integers(keys, (2, height * width), -reach, reach)
    taken = torch.where(moved, place + move[:, 0] * width + move[:, 1], place)
    # a later pixel that moves has its new value already: the chain goes on there; -1 - p says that it ends at p
    chain = torch.where((taken > place) & moved[taken], taken, -1 - taken)
    while (chain >= 0).any():
        chain = torch.where(chain >= 0, chain.gather(1, chain.clamp(min=0)), chain)
    return -1 - chain
