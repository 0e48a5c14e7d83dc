"""Each channel enlarged by another factor."""

from itertools import permutations

import numpy as np
import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import C_BAR
from kedge.data.corruptions._draws import integers

info = C_BAR
groups = ("cbar",)
place = 29
# What Mintun et al. call the severity, 0 to 10.
imagenet = (1, 3, 5, 7, 9)
cifar = (1, 2, 5, 9, 10)
tiny = cifar

_ORDERS = torch.tensor(list(permutations(range(3))))


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


def _enlarged(images: torch.Tensor, factor: float) -> torch.Tensor:
    """Return the middle of the images enlarged as by scipy.ndimage.zoom of order 3 without its filter."""
    for dim in (2, 3):
        length = images.shape[dim]
        place = pixels.stretched(length, round(length * factor), length)
        first = torch.from_numpy(np.floor(place).astype(np.int64) - 1)
        total = torch.zeros_like(images)
        for number, weight in enumerate(pixels.cubic(place - np.floor(place))):
            index = pixels.folded(first + number, length, "mirror").to(images.device)
            share = torch.tensor(weight, dtype=images.dtype, device=images.device)
            total += images.index_select(dim, index) * (share.view(-1, 1) if dim == 2 else share)
        images = total
    return images
