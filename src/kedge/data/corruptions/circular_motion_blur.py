"""The mean over turned copies."""

import math
from collections.abc import Iterator
from itertools import product

import numpy as np
import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR

info = C_BAR
groups = ("cbar",)
place = 26
# What Mintun et al. call the severity, 0 to 10.
imagenet = (2.35, 4.05, 5.75, 7.45, 9.15)
cifar = (2.8, 3.6, 4.4, 5.2, 6)
tiny = cifar

_STEPS = 21  # of a circular motion
_AROUND = 2  # pixels further than its own that a cubic spline looks
_POLE = math.sqrt(3) - 2  # of the cubic B-spline


def circular_motion_blur(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Average 21 copies turned by up to 1.5 * level degrees either way, weighing exp(-2 t^2), t = -1 to 1.

    Interpolation is by cubic splines, and what lies outside is black, as in scipy.ndimage.rotate.
    """
    height, width = images.shape[2:]
    # the coefficients of the spline through the pixels: its recursive filter, cut where it has faded
    response = [-6 * _POLE / (1 - _POLE**2) * _POLE ** abs(i) for i in range(-14, 15)]
    for dim in (2, 3):
        images = pixels.filtered(images, response, dim, "mirror")
    # with pixels more on each side the 16 pixels about a place lie at fixed steps from it
    for dim in (2, 3):
        images = pixels.padded(images, dim, _AROUND, _AROUND, "mirror")
    # pixels first, so that one index moves a row of memory
    flat = images.flatten(2).flatten(0, 1).T.contiguous()
    out = flat.new_zeros(height * width, flat.shape[1])
    for index, step, weight in _turned(height, width, 1.5 * level):
        neighbours = flat.narrow(0, step, len(flat) - step).index_select(0, index.to(images.device))
        out += neighbours.mul_(weight.to(images.device)[:, None])
    return out.T.reshape(*images.shape[:2], height, width)


def _turned(height: int, width: int, degrees: float) -> Iterator[tuple[torch.Tensor, int, torch.Tensor]]:
    """Yield what `circular_motion_blur` adds up: for each pixel another one of the image with `_AROUND` pixels more on
    each side, as an index [H * W] and a step to add to it, and its weight [H * W]."""
    rows, columns = np.mgrid[:height, :width].reshape(2, -1) - np.array([[height - 1], [width - 1]]) / 2
    times, wide = np.linspace(-1, 1, _STEPS), width + 2 * _AROUND
    factors = np.exp(-2 * times**2)
    for time, factor in zip(times, factors / factors.sum(), strict=True):
        cos, sin = math.cos(math.radians(time * degrees)), math.sin(math.radians(time * degrees))
        y = cos * rows + sin * columns + (height - 1) / 2
        x = cos * columns - sin * rows + (width - 1) / 2
        inside = (y >= 0) & (y <= height - 1) & (x >= 0) & (x <= width - 1)
        in_y, in_x = pixels.cubic(y - np.floor(y)) * (factor * inside), pixels.cubic(x - np.floor(x))
        # a place outside has no weight: any pixel will do
        top = np.floor(y).astype(np.int64).clip(0, height - 1) + _AROUND - 1
        left = np.floor(x).astype(np.int64).clip(0, width - 1) + _AROUND - 1
        index = torch.from_numpy(top * wide + left)
        for i, j in product(range(4), range(4)):
            yield index, i * wide + j, torch.from_numpy(in_y[i] * in_x[j]).float()
