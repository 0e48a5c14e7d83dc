"""Sums and samples of neighbouring pixels, for images float32 [B, C, H, W].

Everything is made of elementwise operations and gathers in a fixed order. Convolutions, matrix products and means
choose their algorithm by the batch size and the number of threads, and so change the last bits of a result.
"""

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch.nn import functional as F

LUMA = (0.299, 0.587, 0.114)  # of red, green and blue, ITU-R BT.601
GREY = 128 / 255


def folded(index: torch.Tensor, length: int, border: str) -> torch.Tensor:
    """Return the indices, integers of any sign, brought into [0, length).

    Args:
        border: what lies beyond abcd: "edge" aaaa|abcd|dddd, "reflect" dcba|abcd|dcba, "mirror" dcb|abcd|cba.
    """
    if border == "edge" or length == 1:
        return index.clamp(0, length - 1)
    period = 2 * length if border == "reflect" else 2 * length - 2
    index = index.remainder(period)
    return torch.minimum(index, period - 1 - index if border == "reflect" else period - index).abs()


def padded(images: torch.Tensor, dim: int, before: int, after: int, border: str) -> torch.Tensor:
    """Return the images with `before` and `after` pixels more along `dim` (2 or 3)."""
    if border == "edge":
        return F.pad(images, (0, 0, before, after) if dim == 2 else (before, after, 0, 0), mode="replicate")
    length = images.shape[dim]
    index = torch.arange(-before, length + after, device=images.device)
    return images.index_select(dim, folded(index, length, border))


def filtered(images: torch.Tensor, weights: Sequence[float], dim: int, border: str) -> torch.Tensor:
    """Return the sum over offsets, -r to r, of weights[r + offset] times the images shifted along `dim`."""
    radius, length = len(weights) // 2, images.shape[dim]
    if len(weights) > length and border != "edge":
        return _mixed(images, weights, dim, border)
    wide = padded(images, dim, radius, radius, border)
    out = wide.narrow(dim, 0, length) * weights[0]
    for start in range(1, 2 * radius + 1):
        out.add_(wide.narrow(dim, start, length), alpha=weights[start])
    return out


def gaussian(images: torch.Tensor, sigma: float, border: str = "edge", truncate: float = 4.0) -> torch.Tensor:
    """Return the images blurred with a Gaussian of `sigma` pixels, cut at `truncate` standard deviations."""
    radius = int(truncate * sigma + 0.5)
    if radius == 0:
        return images
    weights = bell(range(-radius, radius + 1), sigma)
    for dim in (2, 3):
        images = filtered(images, weights, dim, border)
    return images


def bell(places: Iterable[int], sigma: float) -> list[float]:
    """Return a Gaussian's weights at places in pixels, with sum 1."""
    weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in places]
    total = sum(weights)
    return [w / total for w in weights]


def smeared(images: torch.Tensor, radius: int, sigma: float, degrees: torch.Tensor) -> torch.Tensor:
    """Average along the ray that leaves each pixel at an angle, float [B]; edge pixels are repeated.

    ImageMagick's motion blur: 2 * radius + 1 pixels, the one at distance i weighing exp(-i^2 / (2 sigma^2)), at
    positions rounded to whole pixels.
    """
    length = 2 * radius + 1
    weights = bell(range(length), sigma)
    height, width = images.shape[2:]
    wide = padded(padded(images, 2, length, length, "edge"), 3, length, length, "edge")
    stride = width + 2 * length
    start = torch.arange(length, length + height)[:, None] * stride + torch.arange(length, length + width)
    start = start.flatten().to(images.device)
    radians = degrees.double() * (math.pi / 180)
    across, down = radians.cos(), radians.sin()
    flat = wide.flatten(2)
    out = images * (weights[0])
    for i in range(1, length):
        offset = (i * down - 0.5).ceil().long() * stride + (i * across - 0.5).ceil().long()
        index = (start + offset[:, None])[:, None].expand(-1, images.shape[1], -1)
        out.add_(flat.gather(2, index).view(images.shape), alpha=weights[i])
    return out


def convolved(images: torch.Tensor, kernel: np.ndarray, border: str = "mirror") -> torch.Tensor:
    """Return the correlation of every channel with a kernel [2r + 1, 2r + 1]; zeros cost nothing."""
    radius, (height, width) = kernel.shape[0] // 2, images.shape[2:]
    wide = padded(padded(images, 2, radius, radius, border), 3, radius, radius, border)
    out = torch.zeros_like(images)
    for y, x in zip(*kernel.nonzero(), strict=True):
        out.add_(wide[:, :, y : y + height, x : x + width], alpha=float(kernel[y, x]))
    return out


def sampled(images: torch.Tensor, y: torch.Tensor, x: torch.Tensor, border: str) -> torch.Tensor:
    """Return the images at positions y, x, float [B, H', W'] in pixels, interpolated linearly: [B, C, H', W'].

    Args:
        border: as for `folded`, or "zero".
    """
    height, width = images.shape[2:]
    top, left = y.floor(), x.floor()
    down, right = (y - top)[:, None], (x - left)[:, None]
    # positions far outside would overflow
    top, left = top.clamp(-(2**30), 2**30).long(), left.clamp(-(2**30), 2**30).long()

    outside = "edge" if border == "zero" else border
    rows = [folded(top + step, height, outside) * width for step in (0, 1)]
    columns = [folded(left + side, width, outside) for side in (0, 1)]
    flat = images.flatten(2)

    def corner(step: int, side: int) -> torch.Tensor:
        index = (rows[step] + columns[side]).flatten(1)[:, None].expand(-1, images.shape[1], -1)
        values = flat.gather(2, index).view(*images.shape[:2], *y.shape[1:])
        if border == "zero":
            at_y, at_x = top + step, left + side
            values *= ((at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width))[:, None]
        return values

    def row_of(step: int) -> torch.Tensor:
        return corner(step, 0).mul_(1 - right).add_(corner(step, 1).mul_(right))

    return row_of(0).mul_(1 - down).add_(row_of(1).mul_(down))


def zoomed(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the middle of the images enlarged `factor`, at least 1, times by linear interpolation.

    The middle `ceil(n / factor)` pixels are stretched from corner to corner over `round(crop * factor)` pixels, of
    which the middle n are kept, as in scipy.ndimage.zoom.
    """
    return zoomed_turned(images, factor).transpose(2, 3).contiguous()


def zoomed_turned(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Return `zoomed` with rows and columns exchanged, [B, C, W, H]."""
    for number, length in enumerate(images.shape[2:]):
        crop = math.ceil(length / factor)
        place = stretched(crop, round(crop * factor), length)
        first = np.minimum(place.astype(int), crop - 1)
        share = torch.tensor(place - first, dtype=images.dtype, device=images.device)
        share = share.view(-1, 1)
        below = torch.tensor(first + (length - crop) // 2, device=images.device)
        above = torch.tensor(np.minimum(first + 1, crop - 1) + (length - crop) // 2, device=images.device)
        # whole rows are copied faster than the pixels of each row: so both times rows, the image turned in between
        images = images.transpose(2, 3).contiguous() if number else images
        rows = images.index_select(2, below).mul_(1 - share)
        images = rows.add_(images.index_select(2, above).mul_(share))
    return images


def stretched(old: int, new: int, count: int) -> np.ndarray:
    """Return where among `old` pixels, stretched over `new` from end to end, the middle `count` of these lie."""
    step = (old - 1) / (new - 1) if new > 1 else 0.0
    return (np.arange(count) + (new - count) // 2) * step


def cubic(share: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline's weights of the pixels -1, 0, 1 and 2 for a place in [0, 1): [4, ...]."""
    rest = 1 - share
    inner = [4 - 6 * s**2 + 3 * s**3 for s in (share, rest)]
    return np.stack([rest**3, *inner, share**3]) / 6


def mean(images: torch.Tensor) -> torch.Tensor:
    """Return each channel's mean over the image, [B, C, 1, 1], by adding halves: one order whatever the batch."""
    values = images.flatten(2)
    count = values.shape[2]
    while values.shape[2] > 1:
        half = values.shape[2] // 2
        odd = values[:, :, 2 * half :]
        values = values[:, :, :half] + values[:, :, half : 2 * half]
        values[:, :, :1] += odd.sum(2, keepdim=True)  # one value or none
    return (values / count)[..., None]


def luma(images: torch.Tensor) -> torch.Tensor:
    """Return the brightness to the eye, [B, 1, H, W], of RGB images; the mean of any other number of channels."""
    weights: Iterable[float] = LUMA if images.shape[1] == 3 else [1 / images.shape[1]] * images.shape[1]
    total = torch.zeros_like(images[:, :1])
    for channel, weight in enumerate(weights):
        total += images[:, channel : channel + 1] * weight
    return total


def colour(rgb: Sequence[float], images: torch.Tensor) -> torch.Tensor:
    """Return a colour, three values in [0, 1], as [1, C, 1, 1]; as [1, 1, 1, 1], its luma, if C is not 3."""
    if images.shape[1] == 3:
        return torch.tensor(rgb, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
    grey = sum(v * w for v, w in zip(rgb, LUMA, strict=True))
    return torch.full((1, 1, 1, 1), grey, dtype=images.dtype, device=images.device)


def places(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row [1, H, 1] and the column [1, 1, W] of every pixel, float32."""
    rows = torch.arange(images.shape[2], device=images.device, dtype=torch.float32)
    columns = torch.arange(images.shape[3], device=images.device, dtype=torch.float32)
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def _mixed(images: torch.Tensor, weights: Sequence[float], dim: int, border: str) -> torch.Tensor:
    """`filtered` for kernels longer than the image: the weights that fall on one pixel are added first."""
    length = images.shape[dim]
    matrix = _fallen(tuple(weights), length, border).to(images.device, images.dtype)
    out = torch.zeros_like(images)
    for source in range(length):
        column = matrix[:, source : source + 1] if dim == 2 else matrix[:, source]
        out += images.narrow(dim, source, 1) * column
    return out


@lru_cache(maxsize=8)
def _fallen(weights: tuple[float, ...], length: int, border: str) -> torch.Tensor:
    radius = len(weights) // 2
    target = torch.arange(length)[:, None]
    source = folded(target + torch.arange(-radius, radius + 1), length, border)
    values = torch.tensor(weights, dtype=torch.float64).expand(length, -1)
    return torch.zeros(length, length, dtype=torch.float64).scatter_add_(1, source, values)
