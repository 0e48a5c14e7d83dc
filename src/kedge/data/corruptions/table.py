"""The nineteen corruptions of Hendrycks & Dietterich (2019) and their parameters at severities 1 to 5."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from kedge.data.corruptions.blur import defocus_blur, gaussian_blur, glass_blur, motion_blur, zoom_blur
from kedge.data.corruptions.digital import contrast, jpeg_compression, pixelate, saturate
from kedge.data.corruptions.elastic import elastic_transform
from kedge.data.corruptions.frost import frost
from kedge.data.corruptions.noise import gaussian_noise, impulse_noise, shot_noise, speckle_noise
from kedge.data.corruptions.spatter import spatter
from kedge.data.corruptions.weather import brightness, fog, snow

Levels = tuple[Any, Any, Any, Any, Any]
Function = Callable[[torch.Tensor, Any, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Corruption:
    """A corruption and its parameter at severities 1 to 5.

    Attributes:
        function: (images float32 [B, C, H, W], level, keys long [B]) -> float [B, C, H, W]; clamped by `corrupt`.
        imagenet: published, images above 64 px.
        cifar: published, 16 to 64 px.
        tiny: ours, below 16 px.
    """

    function: Function
    imagenet: Levels
    cifar: Levels
    tiny: Levels


def _zooms(*ranges: tuple[float, float]) -> Levels:
    # numpy's arange, which the published factors were made with, now and then has one value more than one expects
    factors = [tuple(float(v) for v in np.arange(1, end, step)) for end, step in ranges]
    return factors[0], factors[1], factors[2], factors[3], factors[4]


CORRUPTIONS = {
    "gaussian_noise": Corruption(
        gaussian_noise,  # standard deviation
        imagenet=(0.08, 0.12, 0.18, 0.26, 0.38),
        cifar=(0.04, 0.06, 0.08, 0.09, 0.10),
        tiny=(0.08, 0.12, 0.18, 0.26, 0.38),
    ),
    "shot_noise": Corruption(
        shot_noise,  # photons that make a value of 1
        imagenet=(60, 25, 12, 5, 3),
        cifar=(500, 250, 100, 75, 50),
        tiny=(60, 25, 12, 5, 3),
    ),
    "impulse_noise": Corruption(
        impulse_noise,  # share of the values
        imagenet=(0.03, 0.06, 0.09, 0.17, 0.27),
        cifar=(0.01, 0.02, 0.03, 0.05, 0.07),
        tiny=(0.03, 0.06, 0.09, 0.17, 0.27),
    ),
    "defocus_blur": Corruption(
        defocus_blur,  # radius of the disc, sigma of its rim
        imagenet=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
        cifar=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
        tiny=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    ),
    "glass_blur": Corruption(
        glass_blur,  # sigma, largest move, rounds
        imagenet=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
        cifar=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
        tiny=((0.6, 1, 1), (0.4, 1, 1), (0.05, 1, 1), (0.05, 1, 2), (0.05, 1, 4)),
    ),
    "motion_blur": Corruption(
        motion_blur,  # radius, sigma
        imagenet=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
        cifar=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
        tiny=((3, 0.5), (3, 0.75), (3, 1), (3, 1.5), (4, 2.5)),
    ),
    "zoom_blur": Corruption(
        zoom_blur,  # factors: from 1 up to an end, by a step
        imagenet=_zooms((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
        cifar=_zooms((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
        tiny=_zooms((1.11, 0.01), (1.21, 0.02), (1.31, 0.03), (1.46, 0.04), (1.61, 0.05)),
    ),
    "snow": Corruption(
        snow,  # mean, deviation, enlargement, threshold, radius, sigma, share not whitened
        imagenet=(
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ),
        cifar=(
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ),
        tiny=(
            (0.1, 0.2, 1, 0.6, 3, 1, 0.95),
            (0.1, 0.2, 1, 0.5, 3, 1, 0.9),
            (0.15, 0.3, 1, 0.55, 3, 1, 0.85),
            (0.25, 0.3, 1, 0.6, 3, 1.5, 0.8),
            (0.3, 0.3, 1, 0.6, 3, 2, 0.7),
        ),
    ),
    "frost": Corruption(
        frost,  # share of the image, share of the texture, step between the texture's pixels
        imagenet=((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)),
        cifar=((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)),
        tiny=((1, 0.2, 10), (1, 0.3, 10), (0.9, 0.4, 10), (0.85, 0.45, 10), (0.75, 0.5, 10)),
    ),
    "fog": Corruption(
        fog,  # thickness, decay
        imagenet=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
        cifar=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
        tiny=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
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
    "elastic_transform": Corruption(
        elastic_transform,  # strength, sigma, shift: parts of 244 px (as published, not 224) and of 32 px
        imagenet=(
            (244 * 2, 244 * 0.7, 244 * 0.1),
            (244 * 2, 244 * 0.08, 244 * 0.2),
            (244 * 0.05, 244 * 0.01, 244 * 0.02),
            (244 * 0.07, 244 * 0.01, 244 * 0.02),
            (244 * 0.12, 244 * 0.01, 244 * 0.02),
        ),
        cifar=(
            (0, 0, 32 * 0.08),
            (32 * 0.05, 32 * 0.2, 32 * 0.07),
            (32 * 0.08, 32 * 0.06, 32 * 0.06),
            (32 * 0.1, 32 * 0.04, 32 * 0.05),
            (32 * 0.1, 32 * 0.03, 32 * 0.03),
        ),
        tiny=((0, 0, 0.3), (0, 0, 0.45), (0.8, 1, 0.45), (1.6, 1, 0.45), (2.4, 1, 0.45)),
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
    "speckle_noise": Corruption(
        speckle_noise,  # standard deviation as a share of the value
        imagenet=(0.15, 0.2, 0.35, 0.45, 0.6),
        cifar=(0.06, 0.1, 0.12, 0.16, 0.2),
        tiny=(0.15, 0.2, 0.35, 0.45, 0.6),
    ),
    "gaussian_blur": Corruption(
        gaussian_blur,  # standard deviation in pixels
        imagenet=(1, 2, 3, 4, 6),
        cifar=(0.4, 0.6, 0.7, 0.8, 1),
        tiny=(0.4, 0.6, 0.7, 0.8, 1),
    ),
    "spatter": Corruption(
        spatter,  # mean, deviation, sigma, threshold, strength or sigma of the rim, 0 water or 1 mud
        imagenet=(
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ),
        cifar=(
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ),
        tiny=(
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.2, 0.7, 0.69, 0.6, 0),
            (0.65, 0.1, 0.5, 0.66, 0.6, 1),
            (0.65, 0.1, 0.5, 0.63, 0.6, 1),
        ),
    ),
    "saturate": Corruption(
        saturate,  # factor, shift
        imagenet=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
        cifar=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
        tiny=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
    ),
}
NAMES = tuple(CORRUPTIONS)
