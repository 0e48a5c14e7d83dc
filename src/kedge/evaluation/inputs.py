"""Bringing images to what a model takes: floating point in [0, 1], its channels, its size."""

import torch.nn.functional as F
from torch import Tensor

from kedge.checks import unit_images

# ITU-R BT.601 luma, as PIL's convert("L").
_LUMA = (0.299, 0.587, 0.114)


def to_unit(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` as float32 in [0, 1]: uint8 is divided by 255, floating point looked at (`unit_images`)."""
    return unit_images(images).float()


def convert(images: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring float images `[B, C, H, W]` to `shape` (C, H, W): channels first, then size.

    Grey is repeated, colour becomes luma, an alpha channel is dropped. Size: resized (bilinear, antialiased) so that
    the target is just covered, then the centre is cropped. Raises ValueError for other changes of channels.
    """
    channels, height, width = shape
    have = images.shape[1]
    if have == 4 and channels in (1, 3):
        images, have = images[:, :3], 3
    if have == 1 and channels > 1:
        images = images.expand(-1, channels, -1, -1)
    elif have == 3 and channels == 1:
        images = (images * images.new_tensor(_LUMA)[:, None, None]).sum(dim=1, keepdim=True)
    elif have != channels:
        raise ValueError(f"images of {have} channels cannot be turned into {channels}")
    tall, wide = images.shape[2:]
    if (tall, wide) == (height, width):
        return images
    scale = max(height / tall, width / wide)
    size = (max(height, round(tall * scale)), max(width, round(wide * scale)))
    images = F.interpolate(images, size=size, mode="bilinear", antialias=True)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return images[:, :, top : top + height, left : left + width].clamp(0, 1)


def conversion(have: tuple[int, ...], want: tuple[int, ...]) -> str | None:
    """What `convert` does from shape `have` to `want` (C, H, W), in words; None when nothing."""
    words = []
    if have[0] != want[0]:
        kinds = {1: "grey", 3: "colour"}
        words.append(f"{kinds.get(have[0], f'{have[0]} channels')} to {kinds.get(want[0], f'{want[0]} channels')}")
    if tuple(have[1:]) != tuple(want[1:]):
        words.append(f"{have[1]}×{have[2]} resized to {want[1]}×{want[2]}")
    return ", ".join(words) or None
