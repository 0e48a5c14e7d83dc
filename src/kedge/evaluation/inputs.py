"""Bringing images to what a model takes: [0, 1], its channels, its size; and several views of them."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.checks import unit_images
from kedge.data import read_image
from kedge.data.formats import Encoded
from kedge.data.sets import size_of

# ITU-R BT.601 luma, as PIL's convert("L").
_LUMA = (0.299, 0.587, 0.114)
CORNERS = ((0, 0), (-1, -1), (1, 1), (-1, 1), (1, -1))
MOST = 2 * len(CORNERS)  # views of an image


def to_unit(images: Tensor) -> Tensor:
    """Images `[B, C, H, W]` as float32 in [0, 1]: uint8 is divided by 255, floating point looked at (`unit_images`)."""
    return unit_images(images).float()


def as_batch(images: Any, device: torch.device) -> Tensor:
    """A set of a few images as a batch `[B, C, H, W]` in [0, 1]."""
    return to_unit(torch.stack([images[i][0] for i in range(len(images))])).to(device)


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


def decoded(source: Encoded, shape: tuple[int, ...], traits: list[str] | None = None) -> Tensor:
    """Decode an image as evaluation does: uint8 `[C, H, W]` of `shape`, resized to cover it, centre cropped.

    A list `traits` is extended by those of the file (`kedge.data.traits`).

    Raises:
        DataError: if it cannot be read.
    """
    return read_image(source, size_of(shape), shape[0], traits)


def conversion(have: tuple[int, ...], want: tuple[int, ...]) -> str | None:
    """What `convert` does from shape `have` to `want` (C, H, W), in words; None when nothing."""
    words = []
    if have[0] != want[0]:
        kinds = {1: "grey", 3: "colour"}
        words.append(f"{kinds.get(have[0], f'{have[0]} channels')} to {kinds.get(want[0], f'{want[0]} channels')}")
    if tuple(have[1:]) != tuple(want[1:]):
        words.append(f"{have[1]}×{have[2]} resized to {want[1]}×{want[2]}")
    return ", ".join(words) or None


class Views(nn.Module):
    """A model `[B, C, H, W]` -> `[B, classes]` that answers with the mean of its logits over fixed views of an image.

    The views are the image, its mirror image, and both moved by `reach` pixels towards each corner, in this order,
    the border reflected: the ten crops of Krizhevsky et al. (NIPS 2012), from the crops and flips that small images are
    trained with. Nothing is drawn at random.

    Args:
        model: from images in [0, 1] to logits.
        count: how many views, 1 to 10.
        reach: of the moves; None: a sixteenth of the shorter side (2 at 32 px), half of the largest move in training.
    """

    def __init__(self, model: nn.Module, count: int = MOST, reach: int | None = None) -> None:
        super().__init__()
        if not 1 <= count <= MOST:
            raise ValueError(f"views is a number from 1 to {MOST}, got {count}")
        if reach is not None and reach < 0:
            raise ValueError(f"reach is a number of pixels, 0 or more, got {reach}")
        self.model, self.count, self.reach = model, count, reach

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits."""
        logits: list[Tensor] = [self.model(view) for view in self.views(images)]
        return torch.stack(logits).mean(0)

    def views(self, images: Tensor) -> Iterator[Tensor]:
        """The views of a batch, one after another, each `[B, C, H, W]`."""
        height, width = images.shape[2:]
        reach = min(height, width) // 16 if self.reach is None else self.reach
        padded = F.pad(images, (reach,) * 4, mode="reflect") if reach else images
        for number in range(self.count):
            down, right = CORNERS[number // 2]
            top, left = reach * (1 + down), reach * (1 + right)
            view = padded[:, :, top : top + height, left : left + width]
            yield view.flip(3) if number % 2 else view
