"""The mean over a disc."""

import numpy as np
import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "blur")
place = 4
# Radius of the disc, sigma of its rim.
imagenet = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
cifar = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))
tiny = cifar


def defocus_blur(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Average over a disc: level is its radius and the standard deviation of the blur of its rim, in pixels.

    Beyond the border the image is mirrored about its edge pixels.
    """
    return pixels.convolved(images, disc(*level))


def disc(radius: float, sigma: float) -> np.ndarray:
    """Return the kernel of `defocus_blur`, [2r + 1, 2r + 1] with sum 1, r the larger of 8 and the radius."""
    reach = 8 if radius <= 8 else int(radius)
    axis = np.arange(-reach, reach + 1)
    kernel = (axis[:, None] ** 2 + axis**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    size = 1 if radius <= 8 else 2  # the rim's blur reaches this far
    weights = np.array(pixels.bell(range(-size, size + 1), sigma))
    for axis_number in (0, 1):
        wide = np.pad(kernel, [(size, size) if a == axis_number else (0, 0) for a in (0, 1)], mode="reflect")
        shifted = [wide.take(range(i, i + len(kernel)), axis_number) for i in range(2 * size + 1)]
        kernel = sum((w * s for w, s in zip(weights, shifted, strict=True)), np.zeros_like(kernel))
    kernel[kernel < 1e-9] = 0  # 1e-9 of the light or less, far below float32
    return kernel
