"""Augmentation of training images: on the whole batch for small images, per image for larger ones."""

from collections.abc import Callable, Sequence
from typing import Any

import torch

from kedge.data.pixmix import mixing_pictures, pixmix
from kedge.data.policies import randaugment, trivial

AUGMENTATIONS = ("auto", "none", "crop-flip", "trivial", "randaugment", "pixmix")
WHOLE = 64  # pixels of a side up to which whole batches are augmented
PICTURES = 256
CROP = 0.08  # of the area of a photo that a random crop keeps at least (Szegedy et al., 2015)


def check_augment(augment: str) -> None:
    """Raise ValueError for what is not the name of an augmentation."""
    if augment not in AUGMENTATIONS:
        raise ValueError(f"augment must be one of {', '.join(AUGMENTATIONS)}, got {augment!r}")


class BatchAugmentation:
    """What `augment` of a recipe does to a whole batch of small images; images above 64 px come back as they are.

    "auto" and "crop-flip": `augment_batch`. After that "trivial": TrivialAugment; "randaugment": RandAugment, two
    operations of magnitude 9 of 30; "pixmix": PixMix (k = 4, beta = 3) with pictures that are made here: 256, half of
    discs that hide each other, half of noise of many scales, in place of the fractals and feature visualisations of
    the paper, which are a download (`kedge.data.pixmix.mixing_pictures`). "none": nothing.

    Args:
        augment: one of those names.
        flip: whether images are mirrored.
        seed: of the pictures.

    Raises:
        ValueError: another name.
    """

    def __init__(self, augment: str = "auto", flip: bool = True, seed: int = 0) -> None:
        check_augment(augment)
        self.augment, self.flip, self.seed = augment, flip, seed
        self._pictures: torch.Tensor | None = None

    def __call__(self, images: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Uint8 `[B, C, H, W]` to the same shape, with draws of `generator`, which is on the images' device."""
        if max(images.shape[2:]) > WHOLE or self.augment == "none":
            return images
        images = augment_batch(images, generator, flip=self.flip)
        if self.augment == "trivial":
            return trivial(images, generator)
        if self.augment == "randaugment":
            return randaugment(images, generator)
        if self.augment == "pixmix":
            if self._pictures is None or self._pictures.shape[1:] != images.shape[1:]:
                _, channels, height, width = images.shape
                self._pictures = mixing_pictures(PICTURES, channels, height, width, self.seed).to(images.device)
            chosen = torch.randint(PICTURES, (len(images),), generator=generator, device=images.device)
            return pixmix(images, augment_batch(self._pictures[chosen], generator), generator)
        return images


def augment_batch(
    images: torch.Tensor, generator: torch.Generator | None, padding: int | None = None, flip: bool = True
) -> torch.Tensor:
    """Crop each image at random from its reflect-padded self and mirror half of them.

    Args:
        images: [B, C, H, W], any dtype, on any device; fastest in channels_last memory format.
        generator: on the images' device; None draws from torch's global generator.
        padding: largest shift in pixels, each way; None is an eighth of the shorter side (4 px at 32).
        flip: mirror each image with probability 1/2.

    Returns:
        A new tensor, the same shape, dtype and device, in channels_last memory format.

    Raises:
        ValueError: padding negative, or not smaller than the image.
    """
    batch, channels, height, width = images.shape
    if padding is None:
        padding = min(height, width) // 8
    if not 0 <= padding < min(height, width):
        raise ValueError(f"padding must be 0 to {min(height, width) - 1} for {height}x{width} images, got {padding}")
    device = images.device
    # a fixed number of draws, so that the shifts are the same with and without mirroring
    shift = torch.randint(-padding, padding + 1, (2, batch, 1), generator=generator, device=device)
    mirror = torch.rand((batch, 1), generator=generator, device=device) < 0.5
    # Half as many bytes of indices as by default, where they can count the batch's pixels.
    number = torch.int32 if batch * height * width < 2**31 else torch.int64
    down, right = shift.to(number)
    rows = _reflected(torch.arange(height, dtype=number, device=device) + down, height)
    columns = torch.arange(width, dtype=number, device=device)
    if flip:
        columns = torch.where(mirror, width - 1 - columns, columns)
    columns = _reflected(columns + right, width)
    # One copy of whole pixels, all channels of one together: no other order of the bytes is as fast.
    rows = rows + torch.arange(0, batch * height, height, dtype=number, device=device)[:, None]
    places = (rows[:, :, None] * width + columns[:, None, :]).flatten()
    pixels = images.permute(0, 2, 3, 1).reshape(batch * height * width, channels)
    return pixels.index_select(0, places).view(batch, height, width, channels).permute(0, 3, 1, 2)


def photo_transform(
    augment: str, image_size: int | Sequence[int], mirror: bool, crop: float = CROP
) -> Callable[[Any], Any] | None:
    """Return the torchvision v2 transform of one training image, or None for the evaluation view.

    "auto" and "crop-flip": RandomResizedCrop to image_size (a side, or (H, W)) of a share of the area of at least
    `crop`, and if `mirror` a flip; "trivial" adds TrivialAugmentWide (Müller & Hutter 2021), "randaugment" RandAugment
    (Cubuk et al. 2020; two operations of magnitude 9); "none" is None. It draws from torch's global generator.

    Raises:
        ValueError: another name, or "pixmix", which is for small images.
    """
    check_augment(augment)
    if augment == "pixmix":
        raise ValueError(f"augment pixmix is for images up to {WHOLE} px; larger ones take trivial or randaugment")
    if augment == "none":
        return None
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomResizedCrop(image_size, scale=(crop, 1.0), antialias=True)]
    if mirror:
        steps.append(v2.RandomHorizontalFlip())
    if augment == "trivial":
        steps.append(v2.TrivialAugmentWide())
    elif augment == "randaugment":
        steps.append(v2.RandAugment())
    return v2.Compose(steps)


def _reflected(position: torch.Tensor, length: int) -> torch.Tensor:
    """Fold positions beyond either end back, the edge pixel not repeated: -1 is 1, `length` is length - 2."""
    return (length - 1) - ((length - 1) - position.abs()).abs()
