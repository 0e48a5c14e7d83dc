"""Slabs: points of which every coordinate tells the class, one by a line and the others by bands, or by more bands."""

from collections.abc import Sequence

import torch
from torch import Tensor

from kedge.data.decode import Size
from kedge.data.parts import RANDOMISED, PartedSet, Parts, randomised
from kedge.data.report import DataError
from kedge.data.sets import TensorSet
from kedge.seeds import derive_keys, derive_seed, generator, unit_interval

__all__ = ["Slabs", "coordinates", "slabs"]

MARGIN = 0.1
KINDS = (1, 3, 5, 7)
# How often a point of a label lies in the nearer of its two bands, by number of slabs and label; else it has one.
_NEARER = {(5, 0): 0.75, (7, 0): 0.5, (7, 1): 0.875}
_SCALE = 51.0  # levels of a pixel in a unit: 2.5 units each way
SIDE = 8
CLASSES = ("negative", "positive")
COUNTS = {"train": 20_000, "test": 10_000}


def coordinates(labels: Tensor, kind: int, count: int, seed: int, noise: float = 0.0) -> Tensor:
    """Coordinates `[N, count]`, float64 in [-1, 1], each of which tells the label by itself, and independent given it.

    Args:
        labels: long `[N]`, 0 or 1.
        kind: 1: `y (m + (1 - m) U)`, y = ±1, margin m = 0.1; 3, 5 or 7: so many bands of alternating labels, the
            centre one of label 0, with gaps of 2m between them.
        count: how many.
        seed: decides them, the same for good.
        noise: of kind 1: the share of the points whose coordinate lies in the margin, whatever the label.

    Raises:
        ValueError: for another kind, or a share outside [0, 1].
    """
    if kind not in KINDS:
        raise ValueError(f"a coordinate is 1 (a line) or has 3, 5 or 7 slabs, not {kind}")
    if not 0 <= noise <= 1 or (noise and kind != 1):
        raise ValueError(f"noise is a share of the points of a linear coordinate, 0 to 1, got {noise} for kind {kind}")
    places = torch.arange(len(labels) * count).view(len(labels), count)
    first, second, third = (unit_interval(derive_keys(places, seed, "slabs", kind, draw)) for draw in range(3))
    positive = (labels == 1)[:, None].expand_as(first)
    if kind == 1:
        value = torch.where(positive, 1.0, -1.0) * (MARGIN + (1 - MARGIN) * first)
        return torch.where(third < noise, MARGIN * (2 * second - 1), value)
    width = (2 - 2 * (kind - 1) * MARGIN) / kind
    # Bands are counted from the centre one, 0, both ways: of label 0 are 0 and 2, of label 1 are 1 and 3.
    negative, others = (torch.arange(nearest, kind // 2 + 1, 2) for nearest in (0, 1))
    band = torch.where(positive, _band(others, second, kind, 1), _band(negative, second, kind, 0))
    inner = torch.where(band == 0, -width / 2, (band - 0.5) * width + 2 * MARGIN * band)
    return torch.where(third < 0.5, -1.0, 1.0) * (inner + width * first)


def _band(bands: Tensor, draw: Tensor, kind: int, label: int) -> Tensor:
    """Which of the bands of a label a uniform draw falls in."""
    return bands[(draw >= _NEARER.get((kind, label), 1.0)).long()]


def slabs(
    count: int, simple: int = 1, others: int = 5, size: int = SIDE, seed: int = 0, noise: float = 0.0, draw: int = 0
) -> PartedSet:
    """Return points as images of `size` pixels a side: one simple coordinate, all others less simple, then rotated.

    Each coordinate alone tells the class. LMS-5 of the paper is one linear coordinate and slabs of 5, MS-(5,7) one of 5
    slabs and others of 7. The pixels are the rotated coordinates in 255 levels, 51 to a unit, which moves coordinates
    that are rotated back by 0.006 in the mean, where the margin is 0.1. Parts are "simple" and "others".

    Args:
        count: how many points, half of each class.
        simple, others: kinds of coordinates, see `coordinates`.
        size: side of the images: size² coordinates.
        seed: decides the rotation.
        noise: of a linear simple coordinate: the share of points in its margin.
        draw: another number, other points in the same rotation.

    Raises:
        ValueError: for a kind that is none, fewer than two coordinates or points.

    Source: Shah et al., NeurIPS 2020, arXiv 2006.07710 (their code; there points are not made pixels).
    """
    if size < 2 or count < 2:
        raise ValueError(f"slabs need 2 points and 2 pixels a side or more, got {count} and {size}")
    labels = torch.arange(count) % 2
    parts = {
        "simple": coordinates(labels, simple, 1, derive_seed(seed, "simple", draw), noise),
        "others": coordinates(labels, others, size * size - 1, derive_seed(seed, "others", draw)),
    }
    rotation = rotation_of(size * size, seed)

    def compose(parts: Parts) -> Tensor:
        points = torch.cat([parts["simple"], parts["others"]], 1) @ rotation
        return (127.5 + _SCALE * points).round().clamp(0, 255).to(torch.uint8).view(-1, 1, size, size)

    shown = {"simple": labels, "others": labels}
    whole = PartedSet(parts, shown, compose, labels, list(CLASSES), "slabs", "all")
    whole.mirror = False  # of no picture
    return whole


def rotation_of(size: int, seed: int) -> Tensor:
    """A random rotation `[size, size]`, float64."""
    normal = torch.randn(size, size, dtype=torch.float64, generator=generator(seed, "slabs", "rotation"))
    q, r = torch.linalg.qr(normal)
    return q * r.diagonal().sign()


def points_of(images: TensorSet, seed: int = 0) -> Tensor:
    """The coordinates `[N, size²]`, float64, that the pixels of slabs stand for, rotated back."""
    pixels = images.images.flatten(1).double()
    return (pixels - 127.5) / _SCALE @ rotation_of(pixels.shape[1], seed).T


class Slabs:
    """Slabs as a source: 64 coordinates, 20,000 points to train on, 10,000 to test, by the name `slabs:SIMPLE+OTHERS`.

    Splits beside train and test are `simple-randomised` and `others-randomised`.

    Raises:
        DataError: for a name that is not of that form.
    """

    parts = ("simple", "others")
    class_names = CLASSES
    splits: Sequence[str] = ("train", "test", *(part + RANDOMISED for part in parts))

    def __init__(self, name: str) -> None:
        kinds = name.removeprefix("slabs").removeprefix(":") or "1+5"
        simple, plus, others = kinds.partition("+")
        known = [str(kind) for kind in KINDS]
        if not plus or simple not in known or others not in known:
            raise DataError(
                f"{name!r} names no slabs: write slabs, which is slabs:1+5 (a line and others of 5 slabs), slabs:5+7, "
                "...: a kind is 1, 3, 5 or 7"
            )
        self.name, self._kinds = name, (int(simple), int(others))

    def load(self, split: str, image_size: Size | None, channels: int | None) -> PartedSet:
        """See `kedge.data.load`.

        Raises:
            DataError: for another image size: pixels are coordinates.
        """
        if image_size not in (None, SIDE, (SIDE, SIDE)):
            raise DataError(
                f"the pixels of {self.name} are {SIDE * SIDE} coordinates: leave image_size {image_size} out"
            )
        if channels not in (None, 1):
            raise DataError(f"the pixels of {self.name} are coordinates, not colours: it has no {channels} channels")
        part, shuffled = split.removesuffix(RANDOMISED), split.endswith(RANDOMISED)
        base = "test" if shuffled else split
        whole = slabs(COUNTS[base], *self._kinds, draw=list(COUNTS).index(base))
        whole.name, whole.split = self.name, split
        return randomised(whole, part) if shuffled else whole
