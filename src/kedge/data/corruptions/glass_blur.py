"""A blur, a local shuffle of pixels, and a blur again."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import integers, stream

info = IMAGENET_C
groups = ("corruptions", "blur")
place = 5
# Sigma, largest move, rounds.
imagenet = ((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
cifar = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))
tiny = ((0.6, 1, 1), (0.4, 1, 1), (0.05, 1, 1), (0.05, 1, 2), (0.05, 1, 4))


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
    copied = torch.where(moved, place + move[:, 0] * width + move[:, 1], place)
    # a later pixel that moves has its new value already: the chain goes on there; -1 - p says that it ends at p
    chain = torch.where((copied > place) & moved[copied], copied, -1 - copied)
    while (chain >= 0).any():
        chain = torch.where(chain >= 0, chain.gather(1, chain.clamp(min=0)), chain)
    return -1 - chain
