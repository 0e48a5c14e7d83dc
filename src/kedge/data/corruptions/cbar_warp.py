"""Distortions and blurs of the C-bar set. Every function: (images float32 [B, C, H, W], level, keys long [B]) -> the
same shape, `level` or its first part being the number that Mintun et al. call the severity, 0 to 10."""

import math
from collections.abc import Iterator
from itertools import permutations, product

import numpy as np
import torch

from kedge.data.corruptions import pixels
from kedge.data.corruptions.draws import integers, uniform

_ORDERS = torch.tensor(list(permutations(range(3))))
_STEPS = 21  # of a circular motion
_AROUND = 2  # pixels further than its own that a cubic spline looks
_POLE = math.sqrt(3) - 2  # of the cubic B-spline


def pinch_and_twirl(images: torch.Tensor, level: tuple[float, int], keys: torch.Tensor) -> torch.Tensor:
    """Draw together and turn the inside of a circle in each of n by n cells; level = (severity, n).

    At the share d of the radius, what lies sin(pi d / 2)^-(0.1 + 0.04 severity) times as far out is seen, turned by
    (1 - d)^2 times 9 degrees per severity, clockwise or not at equal chances.
    """
    severity, cells = level
    height, width = images.shape[2:]
    tall, wide = height // cells, width // cells
    if min(tall, wide) == 0:
        return images.clone()
    radius = min(tall, wide) / 2
    row = torch.arange(height, device=images.device)
    column = torch.arange(width, device=images.device)
    dy = ((row % tall) - tall / 2).view(1, -1, 1)
    dx = ((column % wide) - wide / 2).view(1, 1, -1)
    distance = (dy * dy + dx * dx).sqrt() / radius
    changed = (distance > 1e-3 / radius) & (distance <= 1)
    # what is left of the last whole cell stays
    changed &= (row < tall * cells).view(1, -1, 1) & (column < wide * cells).view(1, 1, -1)
    inside = torch.where(changed, distance, 1.0)
    factor = ((inside * (math.pi / 2)).sin().log() * -(0.1 + 0.04 * severity)).exp()
    direction = integers(keys, (cells * cells,), 0, 2) * 2 - 1
    cell = (row // tall).clamp(max=cells - 1)[:, None] * cells + (column // wide).clamp(max=cells - 1)
    angle = direction[:, cell] * (math.pi / 20 * severity * (1 - inside).square())
    y = torch.where(
        changed, row.view(1, -1, 1) - dy + factor * (dy * angle.cos() - dx * angle.sin()), row.view(1, -1, 1)
    )
    x = torch.where(changed, column - dx + factor * (dy * angle.sin() + dx * angle.cos()), column)
    return pixels.sampled(images, y, x, "zero")


def ripple(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Shift rows and columns by sine waves of amplitude 0.0025 * level of the shorter side.

    Wavelengths are 0.1 to 0.3 of that side, phases random; black comes in from outside.
    """
    height, width = images.shape[2:]
    amplitude = 0.0025 * level * min(height, width)
    draws = uniform(keys, (2, 2))

    def waved(axis: int, length: int) -> torch.Tensor:
        place = torch.arange(length, device=images.device, dtype=torch.float32)
        wavelength = (0.1 + 0.2 * draws[:, 0, axis : axis + 1]) * min(height, width)
        phase = draws[:, 1, axis : axis + 1] * (2 * math.pi)
        return place + amplitude * (2 * math.pi * place / wavelength + phase).sin()

    y = waved(0, height)[:, :, None].expand(-1, -1, width)
    x = waved(1, width)[:, None].expand(-1, height, -1)
    return pixels.sampled(images, y, x, "zero")


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
        taken = flat.narrow(0, step, len(flat) - step).index_select(0, index.to(images.device))
        out += taken.mul_(weight.to(images.device)[:, None])
    return out.T.reshape(*images.shape[:2], height, width)


def transverse_chromatic_aberration(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Enlarge the channels by 1, 1 + 0.025 * level and 1 + 0.05 * level, in random order, about the middle.

    As published, pixels are taken for spline coefficients without the filter that would make them so, which blurs all
    channels a little. A fourth channel has the size of the first, and so on.
    """
    sizes = torch.stack([_enlarged(images, 1 + 0.05 * level * share) for share in (0, 0.5, 1)], 1)
    order = _ORDERS.to(images.device)[integers(keys, (), 0, len(_ORDERS))]
    channel = torch.arange(images.shape[1], device=images.device)
    chosen = order[:, channel % 3].view(-1, 1, images.shape[1], 1, 1).expand(-1, 1, -1, *images.shape[2:])
    return sizes.gather(1, chosen)[:, 0]


def _cubic(share: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline's weights of the pixels -1, 0, 1 and 2 for a place in [0, 1): [4, ...]."""
    rest = 1 - share
    inner = [4 - 6 * s**2 + 3 * s**3 for s in (share, rest)]
    return np.stack([rest**3, *inner, share**3]) / 6


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
        in_y, in_x = _cubic(y - np.floor(y)) * (factor * inside), _cubic(x - np.floor(x))
        # a place outside has no weight: any pixel will do
        top = np.floor(y).astype(np.int64).clip(0, height - 1) + _AROUND - 1
        left = np.floor(x).astype(np.int64).clip(0, width - 1) + _AROUND - 1
        index = torch.from_numpy(top * wide + left)
        for i, j in product(range(4), range(4)):
            yield index, i * wide + j, torch.from_numpy(in_y[i] * in_x[j]).float()


def _near(place: np.ndarray, length: int) -> torch.Tensor:
    """Return the pixels that `_cubic` gives the weights of, [4, ...], mirrored at the border."""
    first = torch.from_numpy(np.floor(place).astype(np.int64) - 1)
    return pixels.folded(first + torch.arange(4).view(-1, *[1] * first.ndim), length, "mirror")


def _enlarged(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the middle of the images enlarged as by scipy.ndimage.zoom of order 3 without its filter."""
    for dim in (2, 3):
        length = images.shape[dim]
        large = round(length * factor)
        step = (length - 1) / (large - 1) if large > 1 else 0.0
        place = (np.arange(length) + (large - length) // 2) * step
        total = torch.zeros_like(images)
        for index, weight in zip(_near(place, length), _cubic(place - np.floor(place)), strict=True):
            share = torch.tensor(weight, dtype=images.dtype, device=images.device)
            total += images.index_select(dim, index.to(images.device)) * (share.view(-1, 1) if dim == 2 else share)
        images = total
    return images
