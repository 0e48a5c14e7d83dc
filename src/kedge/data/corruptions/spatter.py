"""Drops of water or mud on the lens."""

import numpy as np
import torch
from torch.nn import functional as F

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import normal

info = IMAGENET_C
groups = ("corruptions", "extra")
place = 18
# Mean, deviation, sigma, threshold, strength or sigma of the rim, 0 water or 1 mud.
imagenet = (
    (0.65, 0.3, 4, 0.69, 0.6, 0),
    (0.65, 0.3, 3, 0.68, 0.6, 0),
    (0.65, 0.3, 2, 0.68, 0.5, 0),
    (0.65, 0.3, 1, 0.65, 1.5, 1),
    (0.67, 0.4, 1, 0.65, 1.5, 1),
)
cifar = (
    (0.62, 0.1, 0.7, 0.7, 0.5, 0),
    (0.65, 0.1, 0.8, 0.7, 0.5, 0),
    (0.65, 0.3, 1, 0.69, 0.5, 0),
    (0.65, 0.1, 0.7, 0.69, 0.6, 1),
    (0.65, 0.1, 0.5, 0.68, 0.6, 1),
)
tiny = (
    (0.62, 0.1, 0.7, 0.7, 0.5, 0),
    (0.65, 0.1, 0.7, 0.7, 0.5, 0),
    (0.65, 0.2, 0.7, 0.69, 0.6, 0),
    (0.65, 0.1, 0.5, 0.66, 0.6, 1),
    (0.65, 0.1, 0.5, 0.63, 0.6, 1),
)

WATER = (175 / 255, 238 / 255, 238 / 255)  # pale turquoise
MUD = (63 / 255, 42 / 255, 20 / 255)
_FAR = 20  # pixels; no larger distance to a rim is told apart
_RELIEF = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])  # light from the upper left


def spatter(images: torch.Tensor, level: tuple[float, ...], keys: torch.Tensor) -> torch.Tensor:
    """Put drops on the image, float32 [B, C, H, W] in [0, 1]; keys long [B].

    Args:
        level: mean and standard deviation of the draws, the sigma of their blur, the threshold above which there is
            liquid, its strength (water) or the sigma of its rim's blur (mud), and 0 for water or 1 for mud.
    """
    mean, deviation, sigma, threshold, strength, mud = level
    liquid = normal(keys, (1, *images.shape[2:])) * deviation + mean
    liquid = pixels.gaussian(liquid, sigma)
    liquid = torch.where(liquid < threshold, torch.zeros_like(liquid), liquid)
    if mud:
        cover = pixels.gaussian((liquid > threshold).float(), strength)
        cover = torch.where(cover < 0.8, torch.zeros_like(cover), cover)
        return images * (1 - cover) + pixels.colour(MUD, images) * cover
    levels = (liquid.clamp(0, 1) * 255).floor()
    drops = levels * _relief(_distance(_rims(levels)))
    drops = drops / drops.amax((2, 3), keepdim=True).clamp(min=1)  # no drop at all stays none
    return images + drops * strength * pixels.colour(WATER, images)


def _rims(levels: torch.Tensor) -> torch.Tensor:
    """Return Canny's edges of images [B, 1, H, W] in 0 to 255, thresholds 50 and 150, as booleans."""
    smooth, slope = (1.0, 2.0, 1.0), (-1.0, 0.0, 1.0)
    across = pixels.filtered(pixels.filtered(levels, smooth, 2, "edge"), slope, 3, "edge")
    down = pixels.filtered(pixels.filtered(levels, slope, 2, "edge"), smooth, 3, "edge")
    strength = across.abs() + down.abs()
    height, width = strength.shape[2:]
    wide = F.pad(strength, (1, 1, 1, 1))

    def at(dy: int, dx: int) -> torch.Tensor:
        return wide[:, :, 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]

    # kept where it is highest along its own direction: horizontal, vertical or one of the diagonals
    flat, steep = 0.41421356, 2.41421356  # tangents of 22.5 and 67.5 degrees
    horizontal = down.abs() < across.abs() * flat
    vertical = down.abs() > across.abs() * steep
    falling = across.sign() * down.sign() >= 0
    one, other = at(-1, -1), at(1, 1)
    one = torch.where(falling, one, at(-1, 1))
    other = torch.where(falling, other, at(1, -1))
    peak = (strength > one) & (strength > other)
    peak = torch.where(vertical, (strength > at(-1, 0)) & (strength >= at(1, 0)), peak)
    peak = torch.where(horizontal, (strength > at(0, -1)) & (strength >= at(0, 1)), peak)
    weak, edge = peak & (strength > 50), peak & (strength > 150)
    while True:  # weak edges count where a strong one can be reached along them
        grown = F.max_pool2d(edge.float(), 3, 1, 1).bool() & weak
        if torch.equal(grown, edge):
            return edge
        edge = grown


def _distance(rims: torch.Tensor) -> torch.Tensor:
    """Return the distance to the next rim, at most 20 pixels, float [B, 1, H, W].

    It is the length of a path of steps to a neighbour (1), to a diagonal one (1.4) and of a knight's moves (2.1969), a
    near-Euclidean distance (Borgefors 1986), as published; in the plane that is the largest of four weighted sums.
    """
    width, height = rims.shape[3], rims.shape[2]
    column = torch.arange(width, device=rims.device)
    far = 10 * (width + _FAR)
    left = torch.where(rims, column, -far).cummax(3).values
    right = torch.where(rims, column, far).flip(3).cummin(3).values.flip(3)
    row = torch.minimum(column - left, right - column).clamp(max=_FAR).float()
    wide = F.pad(row, (0, 0, _FAR, _FAR), value=float(_FAR))
    best = row
    for down in range(1, _FAR):
        across = torch.minimum(
            wide[:, :, _FAR - down : _FAR - down + height], wide[:, :, _FAR + down : _FAR + down + height]
        )
        length = torch.maximum(across + 0.1969 * down, across * 0.1969 + down)
        for a, b in ((0.7969, 0.6031), (0.6031, 0.7969)):
            length = torch.maximum(length, across * a + b * down)
        best = torch.minimum(best, length)
    return best


def _relief(distance: torch.Tensor) -> torch.Tensor:
    """Return the shading of the drops, whole numbers 0 to 255, from distances 0 to 20: equalised, lit, smoothed."""
    blurred = (_boxed(distance) / 9 + 1e-4).floor()  # a mean of whole numbers is not to fall below itself
    total = blurred[0].numel()
    counts = torch.stack([(blurred == value).sum((2, 3)) for value in range(_FAR + 1)], 2).float()  # [B, 1, 21]
    present = counts.cumsum(2)
    lowest = counts.gather(2, (counts > 0).float().argmax(2, keepdim=True))
    scale = 255 / (total - lowest).clamp(min=1)
    table = ((present - lowest) * scale).round().clamp(0, 255)
    value = blurred.long().flatten(2)
    equal = torch.where(lowest == total, value.float(), table.gather(2, value)).view(blurred.shape)
    lit = pixels.convolved(equal, _RELIEF).clamp(0, 255)
    return (_boxed(lit) / 9).round()


def _boxed(images: torch.Tensor) -> torch.Tensor:
    for dim in (2, 3):
        images = pixels.filtered(images, (1.0, 1.0, 1.0), dim, "mirror")
    return images
