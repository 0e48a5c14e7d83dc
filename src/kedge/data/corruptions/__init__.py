"""Common corruptions, written on batches and on the batch's device: the nineteen of Hendrycks & Dietterich (2019), and
the ten of C-bar (Mintun, Kirillov & Xie 2021; a group of its own, `cbar`).

Each corruption has five severities with the published parameters of two variants: ImageNet-C (224 px) and CIFAR-10-C
(32 px). The shorter side of the images decides: above 64 px the ImageNet parameters hold, from 16 to 64 px those of
CIFAR. Lengths in pixels (the width of a blur) are not rescaled to the image. Nothing is published for images below
16 px, such as 8x8 digits; there the third column holds, which is ours: intensities as for ImageNet, since the CIFAR
ones hardly change the few large features of such an image, and lengths as for CIFAR or shorter.

The images made here are close to the published files but not the same, and are to be labelled as regenerated: the noise
is drawn anew, values are not rounded to 256 levels (JPEG apart) nor, as in ImageNet-C, stored as JPEG, and frost has
textures of our own unless a folder with the published ones is given.

A corruption is a file here, named like its function `(images float32 [B, C, H, W], level, keys long [B]) -> images`,
with its five levels for each size (`imagenet`, `cifar`, `tiny`), the words that it answers to with others (`groups`)
and where it stands among them (`place`). `NAMES` are the nineteen, `CBAR` the ten, `GROUPS` the words with what they
stand for, `CORRUPTIONS` the nineteen with their functions and levels; all are read from the files.
"""

import difflib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kedge.data.corruptions._base import Corruption, Levels, corruption, groups, known
from kedge.seeds import derive_keys

__all__ = [
    "CBAR",
    "CORRUPTIONS",
    "GROUPS",
    "HENDRYCKS",
    "NAMES",
    "SEVERITIES",
    "Corruption",
    "check",
    "corrupt",
    "corruption",
    "expand",
    "groups",
    "known",
    "variant",
]

CBAR: tuple[str, ...]
CORRUPTIONS: dict[str, Corruption]
GROUPS: dict[str, tuple[str, ...]]
HENDRYCKS: tuple[str, ...]
NAMES: tuple[str, ...]
SEVERITIES = (1, 2, 3, 4, 5)
_CHUNK = 1 << 19  # values worked on at once on a CPU: what its cache holds is several times faster


def __getattr__(name: str) -> Any:
    derived: dict[str, Callable[[], Any]] = {
        "CBAR": lambda: groups()["cbar"],
        "CORRUPTIONS": lambda: {each: corruption(each) for each in groups()["corruptions"]},
        "GROUPS": groups,
        "HENDRYCKS": lambda: groups()["corruptions"],
        "NAMES": lambda: groups()["corruptions"],
    }
    if name not in derived:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return derived[name]()


def variant(height: int, width: int) -> str:
    """Return which parameters hold for images of this size: "imagenet", "cifar" or "tiny"."""
    shorter = min(height, width)
    return "tiny" if shorter < 16 else "cifar" if shorter <= 64 else "imagenet"


def corrupt(
    images: torch.Tensor,
    name: str,
    severity: int,
    indices: torch.Tensor | None = None,
    seed: int = 0,
    frost_textures: str | Path | None = None,
) -> torch.Tensor:
    """Corrupt a batch. An image's result depends on (image, its index, name, severity, seed), not on the batch.

    Args:
        images: float [B, C, H, W] in [0, 1], any channel count, on any device.
        name: one of `NAMES` or `CBAR`.
        severity: 1 to 5.
        indices: each image's position in its data set, integers [B]; None numbers the batch from 0, which repeats
            the same noise in every batch of a set.
        seed: of the noise.
        frost_textures: a folder of pictures that "frost" takes its pieces from, such as the published photographs
            (frost1.png to frost5.jpg of Hendrycks' repository); None for textures made by `kedge`.

    Returns:
        A new tensor in [0, 1] of the same shape, dtype and device.

    Raises:
        ValueError: unknown name, severity outside 1 to 5, values outside [0, 1], a wrong number of indices, or a
            folder without textures.
        TypeError: images that are not floating point.
    """
    check(name, severity)
    severity = int(severity)  # 3.0 passes for 3
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
    chosen = corruption(name)
    function = chosen.function
    if chosen.textured and frost_textures is not None:
        from kedge.data.corruptions.frost import read_textures

        function = partial(function, textures=read_textures(frost_textures))
    levels: Levels = getattr(chosen, variant(*images.shape[2:]))
    keys = derive_keys(indices.to(images.device), seed, name, severity)
    at_once = max(1, _CHUNK // images[0].numel()) if images.device.type == "cpu" else len(images)
    corrupted = torch.empty_like(images)
    with torch.no_grad(), torch.autocast(images.device.type, enabled=False):
        for start in range(0, len(images), at_once):
            part = slice(start, start + at_once)
            # one memory layout, so that sums are taken in one order
            changed = function(images[part].float().contiguous(), levels[severity - 1], keys[part])
            if changed.dtype == corrupted.dtype:
                torch.clamp(changed, 0, 1, out=corrupted[part])
            else:
                corrupted[part] = changed.clamp(0, 1)
    return corrupted


def check(name: str, severity: int = 1) -> None:
    """Raise ValueError unless there is a corruption of this name and severity."""
    if name not in known():
        raise ValueError(_unknown(name, list(known())))
    if severity not in SEVERITIES:
        raise ValueError(f"severity must be 1, 2, 3, 4 or 5, got {severity}")


def expand(names: str | Iterable[str]) -> list[str]:
    """Return the corruptions that names and words for groups stand for, each once, in the order given.

    Args:
        names: names of corruptions and of `GROUPS`: "corruptions" (the nineteen), "noise", "blur", "weather",
            "digital", "extra" (parts of the nineteen) and "cbar" (the ten).

    Raises:
        ValueError: neither a corruption nor a group.
    """
    single, several = known(), groups()
    expanded: list[str] = []
    for word in [names] if isinstance(names, str) else names:
        if word not in several and word not in single:
            raise ValueError(_unknown(word, [*single, *several]))
        expanded += several.get(word, (word,))
    return list(dict.fromkeys(expanded))


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=2, cutoff=0.4)  # "jpeg" is not nearer to jpeg_compression
    hint = f"; did you mean {' or '.join(near)}?" if near else "."
    return f"no corruption called {name!r}{hint} There are: {', '.join(known)}"
