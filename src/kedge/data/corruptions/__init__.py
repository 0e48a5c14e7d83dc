"""Common corruptions (Hendrycks & Dietterich 2019), written on batches and on the batch's device.

Each corruption has five severities with the published parameters of two variants: ImageNet-C (224 px) and CIFAR-10-C
(32 px). The shorter side of the images decides: above 64 px the ImageNet parameters hold, from 16 to 64 px those of
CIFAR. Lengths in pixels (the width of a blur) are not rescaled to the image. Nothing is published for images below
16 px, such as 8x8 digits; there the third column holds, which is ours: intensities as for ImageNet, since the CIFAR
ones hardly change the few large features of such an image, and lengths as for CIFAR.

The images made here are close to the published files but not the same: the noise is drawn anew, and values are not
rounded to 256 levels (JPEG apart) nor, as in ImageNet-C, stored as JPEG.
"""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from kedge.data.corruptions.blur import gaussian_blur
from kedge.data.corruptions.digital import contrast, jpeg_compression, pixelate
from kedge.data.corruptions.noise import gaussian_noise
from kedge.data.corruptions.weather import brightness
from kedge.data.seeds import derive_keys

SEVERITIES = (1, 2, 3, 4, 5)
Levels = tuple[Any, Any, Any, Any, Any]
_CHUNK = 1 << 19  # values worked on at once on a CPU: what its cache holds is several times faster


@dataclass(frozen=True)
class Corruption:
    """A corruption and its parameter at severities 1 to 5.

    Attributes:
        function: (images float32 [B, C, H, W], level, keys long [B]) -> float [B, C, H, W]; clamped by `corrupt`.
        imagenet: published, images above 64 px.
        cifar: published, 16 to 64 px.
        tiny: ours, below 16 px.
    """

    function: Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]
    imagenet: Levels
    cifar: Levels
    tiny: Levels


CORRUPTIONS = {
    "gaussian_noise": Corruption(
        gaussian_noise,  # standard deviation
        imagenet=(0.08, 0.12, 0.18, 0.26, 0.38),
        cifar=(0.04, 0.06, 0.08, 0.09, 0.10),
        tiny=(0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "gaussian_blur": Corruption(
        gaussian_blur,  # standard deviation in pixels
        imagenet=(1, 2, 3, 4, 6),
        cifar=(0.4, 0.6, 0.7, 0.8, 1),
        tiny=(0.4, 0.6, 0.7, 0.8, 1),
    ),
    "brightness": Corruption(
        brightness,  # added to the HSV value
        imagenet=(0.1, 0.2, 0.3, 0.4, 0.5),
        cifar=(0.05, 0.1, 0.15, 0.2, 0.3),
        tiny=(0.1, 0.2, 0.3, 0.4, 0.5),
    ),
    "contrast": Corruption(
        contrast,  # factor
        imagenet=(0.4, 0.3, 0.2, 0.1, 0.05),
        cifar=(0.75, 0.5, 0.4, 0.3, 0.15),
        tiny=(0.4, 0.3, 0.2, 0.1, 0.05),
    ),
    "pixelate": Corruption(
        pixelate,  # factor of the size
        imagenet=(0.6, 0.5, 0.4, 0.3, 0.25),
        cifar=(0.95, 0.9, 0.85, 0.75, 0.65),
        tiny=(0.875, 0.625, 0.5, 0.375, 0.25),
    ),
    "jpeg_compression": Corruption(
        jpeg_compression,  # quality
        imagenet=(25, 18, 15, 10, 7),
        cifar=(80, 65, 58, 50, 40),
        tiny=(25, 18, 15, 10, 7),
    ),
}
NAMES = tuple(CORRUPTIONS)


def variant(height: int, width: int) -> str:
    """Return which parameters hold for images of this size: "imagenet", "cifar" or "tiny"."""
    shorter = min(height, width)
    return "tiny" if shorter < 16 else "cifar" if shorter <= 64 else "imagenet"


def corrupt(
    images: torch.Tensor, name: str, severity: int, indices: torch.Tensor | None = None, seed: int = 0
) -> torch.Tensor:
    """Corrupt a batch. An image's result depends on (image, its index, name, severity, seed), not on the batch.

    Args:
        images: float [B, C, H, W] in [0, 1], any channel count, on any device.
        name: one of `NAMES`.
        severity: 1 to 5.
        indices: each image's position in its data set, integers [B]; None numbers the batch from 0, which repeats
            the same noise in every batch of a set.
        seed: of the noise.

    Returns:
        A new tensor in [0, 1] of the same shape, dtype and device.

    Raises:
        ValueError: unknown name, severity outside 1 to 5, values outside [0, 1], or a wrong number of indices.
        TypeError: images that are not floating point.
    """
    check(name, severity)
    if not images.is_floating_point():
        raise TypeError(f"images must be float in [0, 1], got {images.dtype}: divide uint8 by 255")
    if images.ndim != 4:
        raise ValueError(f"images must be [B, C, H, W], got {list(images.shape)}")
    if len(images) == 0:
        return images.clone()
    images = images.detach()
    low, high = (float(v) for v in images.aminmax())
    if not (low >= 0 and high <= 1):  # NaN ends here too
        raise ValueError(f"images must lie in [0, 1], got [{low:.3g}, {high:.3g}]")
    if indices is None:
        indices = torch.arange(len(images))
    if indices.shape != (len(images),):
        raise ValueError(f"{len(images)} images need {len(images)} indices, got {list(indices.shape)}")
    corruption = CORRUPTIONS[name]
    levels: Levels = getattr(corruption, variant(*images.shape[2:]))
    keys = derive_keys(indices.to(images.device), seed, name, severity)
    at_once = max(1, _CHUNK // images[0].numel()) if images.device.type == "cpu" else len(images)
    corrupted = torch.empty_like(images)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            # one memory layout, so that sums are taken in one order
            changed = corruption.function(images[part].float().contiguous(), levels[severity - 1], keys[part])
            corrupted[part] = changed.clamp(0, 1)
    return corrupted


def check(name: str, severity: int = 1) -> None:
    """Raise ValueError unless there is a corruption of this name and severity."""
    if name not in CORRUPTIONS:
        near = difflib.get_close_matches(name, NAMES, n=2, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else "."
        raise ValueError(f"no corruption called {name!r}{hint} There are: {', '.join(NAMES)}")
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")
