"""The mean over enlargements."""

import numpy as np
import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C

info = IMAGENET_C
groups = ("corruptions", "blur")
place = 7


def zooms(*ranges: tuple[float, float]) -> tuple[tuple[float, ...], ...]:
    """The factors from 1 up to each end by its step."""
    # numpy's arange, which the published factors were made with, now and then has one value more than one expects
    return tuple(tuple(float(v) for v in np.arange(1, end, step)) for end, step in ranges)


# Factors: from 1 up to an end, by a step.
imagenet = zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))
cifar = zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01))
tiny = zooms((1.11, 0.01), (1.21, 0.02), (1.31, 0.03), (1.46, 0.04), (1.61, 0.05))


def zoom_blur(images: torch.Tensor, level: tuple[float, ...], keys: torch.Tensor) -> torch.Tensor:
    """Average the image with its middle enlarged by each factor of `level`."""
    turned = images.transpose(2, 3).contiguous()
    total = turned.clone()
    for factor in level:
        total += turned if factor == 1 else pixels.zoomed_turned(images, factor)
    return (total / (len(level) + 1)).transpose(2, 3)
