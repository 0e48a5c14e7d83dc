"""Shrunk and enlarged with boxes."""

import torch

from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "digital")
place = 14
# Factor of the size.
imagenet = (0.6, 0.5, 0.4, 0.3, 0.25)
cifar = (0.95, 0.9, 0.85, 0.75, 0.65)
tiny = (0.875, 0.625, 0.5, 0.375, 0.25)


def pixelate(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Shrink to `level` times the size and enlarge again, both with a box filter."""
    for dim in (2, 3):
        length = images.shape[dim]
        images = _box_resized(_box_resized(images, dim, max(1, int(length * level))), dim, length)
    return images


def _box_resized(images: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Resize one axis with Pillow's box filter: the mean of the pixels whose centres lie below the new pixel."""
    old = images.shape[dim]
    if length == old:
        return images
    scale = old / length
    support = 0.5 * max(scale, 1.0)
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    first = (centres - support + 0.5).floor().long().clamp(min=0)
    last = (centres + support + 0.5).floor().long().clamp(max=old)  # not included
    count = last - first
    total = torch.zeros_like(images.narrow(dim, 0, 1)).expand(
        *(length if d == dim else n for d, n in enumerate(images.shape))
    )
    shape = [length if d == dim else 1 for d in range(images.ndim)]
    for step in range(int(count.max())):
        index = (first + step).clamp(max=old - 1).to(images.device)
        inside = (step < count).to(images.device, images.dtype).view(shape)
        total = total + images.index_select(dim, index) * inside
    return total / count.to(images.device, images.dtype).view(shape)
