"""The ten corruptions of CIFAR-10-C-bar (Mintun, Kirillov & Xie 2021, "On interaction between augmentations and
corruptions in natural corruption robustness") and their severities 1 to 5.

The CIFAR column is the published one for all ten. ImageNet-C-bar is another choice of ten, of which five are here too;
those have its published severities. The other five (marked "not in ImageNet-C-bar") have every second of the ten
values that the authors scanned at 224 px: which five is our choice. Below 16 px the CIFAR values hold, also our choice.
"""

from typing import Any

from kedge.data.corruptions.cbar_noise import (
    blue_noise_sample,
    brownish_noise,
    checkerboard_cutout,
    inverse_sparkles,
    lines,
    sparkles,
)
from kedge.data.corruptions.cbar_warp import (
    circular_motion_blur,
    pinch_and_twirl,
    ripple,
    transverse_chromatic_aberration,
)
from kedge.data.corruptions.table import Corruption, Function, Levels


def _entry(function: Function, imagenet: Levels, cifar: Levels) -> Corruption:
    return Corruption(function, imagenet, cifar, tiny=cifar)


def _cells(levels: tuple[float, ...], count: int) -> Any:
    return tuple((level, count) for level in levels)


CBAR_CORRUPTIONS = {
    "blue_noise_sample": _entry(blue_noise_sample, (0.8, 1.6, 2.4, 4, 5.6), (0.7, 1.4, 2.1, 3.5, 4.2)),
    "brownish_noise": _entry(brownish_noise, (1, 2, 3, 4, 5), (2.5, 4, 5.5, 6.5, 7)),
    "checkerboard_cutout": _entry(checkerboard_cutout, (2, 3, 4, 5, 6), (1, 2, 3, 4, 5)),
    "inverse_sparkles": _entry(inverse_sparkles, (1, 2, 4, 9, 10), (1, 1.5, 2.5, 4.5, 5)),
    "pinch_and_twirl": _entry(  # not in ImageNet-C-bar; (severity, cells each way)
        pinch_and_twirl, _cells((4.15, 5.45, 6.75, 8.05, 9.35), 5), _cells((5.5, 6, 6.5, 8.5, 10), 3)
    ),
    "ripple": _entry(ripple, (3.25, 4.75, 6.25, 7.75, 9.25), (5.5, 6, 6.5, 7.5, 8)),  # not in ImageNet-C-bar
    "circular_motion_blur": _entry(  # not in ImageNet-C-bar
        circular_motion_blur, (2.35, 4.05, 5.75, 7.45, 9.15), (2.8, 3.6, 4.4, 5.2, 6)
    ),
    "lines": _entry(lines, (0.8, 2.4, 4, 5.6, 7.2), (0.5, 1, 1.5, 2, 2.5)),  # not in ImageNet-C-bar
    "sparkles": _entry(sparkles, (1, 2, 3, 5, 6), (0.7, 3.5, 5.6, 6.3, 7)),
    "transverse_chromatic_aberration": _entry(  # not in ImageNet-C-bar
        transverse_chromatic_aberration, (1, 3, 5, 7, 9), (1, 2, 5, 9, 10)
    ),
}
CBAR = tuple(CBAR_CORRUPTIONS)
