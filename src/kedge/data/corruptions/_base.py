"""What every corruption has: a function, its parameter at severities 1 to 5 by the size of the images, its groups."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from kedge import catalog
from kedge.catalog import Info

ROOM = "data.corruptions"
IMAGENET_C = Info(
    "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations",
    "Hendrycks & Dietterich",
    "ICLR",
    2019,
    "https://arxiv.org/abs/1903.12261",
    "code",
)
# The CIFAR column is the published one for all ten. ImageNet-C-bar is another choice of ten, of which five are here
# too; those have its published severities. The other five have every second of the ten values that the authors scanned
# at 224 px: which five is our choice. Below 16 px the CIFAR values hold, also our choice.
C_BAR = Info(
    "On Interaction Between Augmentations and Corruptions in Natural Corruption Robustness",
    "Mintun et al.",
    "NeurIPS",
    2021,
    "https://arxiv.org/abs/2102.11273",
    "code",
)
Levels = tuple[Any, Any, Any, Any, Any]
Function = Callable[..., torch.Tensor]


@dataclass(frozen=True)
class Corruption:
    """A corruption and its parameter at severities 1 to 5: what its file says.

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

    @property
    def textured(self) -> bool:
        """Whether it puts pictures on the images, which can be given as `textures`."""
        return "textures" in catalog.arguments(self.function)


@cache
def corruption(name: str) -> Corruption:
    """The corruption of this name, by its file. Raises ValueError for a name that is none."""
    function = catalog.get(ROOM, name)
    file = sys.modules[function.__module__]
    return Corruption(function, file.imagenet, file.cifar, file.tiny)


def known() -> tuple[str, ...]:
    """Every corruption, by where its file says that it stands (`place`)."""
    return catalog.ordered(ROOM)


def groups() -> dict[str, tuple[str, ...]]:
    """Words for several corruptions, from the `groups` that each file names."""
    members: dict[str, list[str]] = {}
    for name in known():
        for word in catalog.stated(ROOM, name, "groups", ()):
            members.setdefault(word, []).append(name)
    return {word: tuple(each) for word, each in members.items()}
