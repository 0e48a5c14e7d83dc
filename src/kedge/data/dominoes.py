"""Dominoes: an easy and a hard image, one above the other, that show the same class: which of the two is learned?"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from kedge.data.build import build
from kedge.data.decode import SMALL, Size, convert_channels, sides
from kedge.data.digits import Digits
from kedge.data.parts import RANDOMISED, PartedSet, Parts, randomised
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet
from kedge.seeds import derive_keys, unit_interval

__all__ = ["Dominoes", "dominoes"]

PREFIX = "dominoes:"
# Classes of the easy and the hard half that publications pair: D-BAT (arXiv 2202.04414) and Shah et al. (2006.07710).
PUBLISHED = {("mnist", "fashion_mnist"): (("0", "1"), ("3", "4")), ("mnist", "cifar10"): (("0", "1"), ("1", "9"))}
_FORM = "dominoes:EASY+HARD, such as dominoes:mnist+fashion_mnist, or with classes and how often the halves agree, " \
    "dominoes:mnist/0/1+fashion_mnist/3/4@0.9"  # fmt: skip


def dominoes(easy: TensorSet, hard: TensorSet, agree: float = 1.0, seed: int = 0) -> PartedSet:
    """Put an image of `easy` above each image of `hard`; the label is that of the hard one.

    The easy half shows the class of the same number with probability `agree`, else another one, each as likely. Each
    easy image is taken once before one is taken again. Parts are "easy" and "hard" (`kedge.data.randomised`).

    Args:
        easy: the upper images, `[N, C, H, W]` in memory.
        hard: the lower images, of the same channels and width, and of as many classes.
        agree: 1: both halves tell the class; 1 / C: the easy half tells nothing.
        seed: decides which easy image goes with a hard one, the same for good.

    Raises:
        DataError: for sets of other classes or another width, a class without easy images.
        ValueError: for `agree` outside [0, 1].

    Source: Shah et al., NeurIPS 2020, arXiv 2006.07710 (MNIST above CIFAR-10).
    """
    if not 0 <= agree <= 1:
        raise ValueError(f"agree is the probability that both halves show the same class, in [0, 1], not {agree}")
    classes = len(hard.class_names)
    if len(easy.class_names) != classes:
        raise DataError(
            f"halves pair class by class: {easy.name} has {len(easy.class_names)} classes and {hard.name} {classes}"
        )
    for what, one, other in zip(("channels", "width"), _shape(easy), _shape(hard), strict=True):
        if one != other:
            raise DataError(f"the halves have other {what}: {easy.name} {one}, {hard.name} {other}")
    places = torch.arange(len(hard))
    away = unit_interval(derive_keys(places, seed, "disagree")) >= agree
    further = (unit_interval(derive_keys(places, seed, "other")) * (classes - 1)).long() + 1
    shown = torch.where(away, (hard.labels + further) % classes, hard.labels)
    order = derive_keys(torch.arange(len(easy)), seed, "easy").argsort(stable=True)
    chosen = torch.empty_like(shown)
    for c in shown.unique().tolist():
        members, takers = order[easy.labels[order] == c], (shown == c).nonzero()[:, 0]
        if not len(members):
            raise DataError(f"{easy.name} has no image of class {easy.class_names[c]} to pair")
        chosen[takers] = members[torch.arange(len(takers)) % len(members)]
    parts = {"easy": easy.images[chosen], "hard": hard.images}
    labels = {"easy": shown, "hard": hard.labels}
    whole = PartedSet(parts, labels, _stacked, hard.labels, hard.class_names, f"{easy.name}+{hard.name}", hard.split)
    whole.mirror = easy.mirror and hard.mirror
    return whole


def _stacked(parts: Parts) -> torch.Tensor:
    return torch.cat([parts["easy"], parts["hard"]], 2)


def _shape(images: ImageSet) -> tuple[int, int]:
    return images.image_shape[0], images.image_shape[2]


class Dominoes:
    """Dominoes as a source: of two sources, by the name `dominoes:EASY+HARD`.

    Splits are those that both have, train and test, and `easy-randomised` and `hard-randomised`, the test images with
    one half taken from other images.

    Raises:
        DataError: for a name that is not of that form.
    """

    parts = ("easy", "hard")

    def __init__(self, name: str, halves: Sequence[Any], classes: Sequence[Sequence[str]], agree: float) -> None:
        self.name, self._halves, self._classes, self._agree = name, halves, classes, agree
        both = [split for split in ("train", "test") if all(split in half.splits for half in halves)]
        if "train" not in both:
            raise DataError(f"{name}: both halves need a part train, {' and '.join(_offered(h) for h in halves)}")
        more = [part + RANDOMISED for part in self.parts] if "test" in both else []
        self.splits = (*both, *more)

    @property
    def class_names(self) -> list[str]:
        """The classes, those of the hard half."""
        return self._half(1, self.splits[0], None).class_names

    def load(self, split: str, image_size: Size | None, channels: int | None) -> PartedSet:
        """See `kedge.data.load`; an image is twice as high as wide, of a side as `image_size` a square."""
        part, shuffled = split.removesuffix(RANDOMISED), split.endswith(RANDOMISED)
        base = "test" if shuffled else split
        hard = self._half(1, base, None)
        easy = self._half(0, base, hard.image_shape[2])
        depth = channels or max(easy.image_shape[0], hard.image_shape[0])
        height, width = (2 * hard.image_shape[1], hard.image_shape[2]) if image_size is None else sides(image_size)
        heights = (height // 2, height - height // 2)
        if min(heights) < 1:
            raise DataError(f"image_size must be at least 2 pixels, got {image_size}")
        whole = dominoes(_sized(easy, depth, heights[0], width), _sized(hard, depth, heights[1], width), self._agree)
        whole.name, whole.split = self.name, split
        return randomised(whole, part) if shuffled else whole

    def _half(self, number: int, split: str, side: int | None) -> TensorSet:
        source, classes = self._halves[number], self._classes[number]
        if isinstance(source, Digits):
            images: ImageSet = source.load(split, side, None)
        else:
            images = build(source.listing(split), side, decode=False)
        if max(images.image_shape[1:]) > SMALL:
            raise DataError(
                f"{self.name}: halves are images of up to {SMALL} px, and those of {source.name} are larger"
            )
        if classes:
            known = images.class_names
            chosen: Any = [c if c in known or not c.isdigit() else int(c) for c in classes]
            images = images.only_classes(chosen)
        images, _ = images.readable()
        assert isinstance(images, TensorSet)
        return images


def _offered(source: Any) -> str:
    return f"{source.name} has {', '.join(source.splits)}"


def _sized(images: TensorSet, channels: int, height: int, width: int) -> TensorSet:
    pixels = convert_channels(images.images, channels)
    if tuple(pixels.shape[2:]) != (height, width):
        from torchvision.transforms.v2 import functional as v2

        pixels = v2.resize(pixels, [height, width], antialias=True)
    sized = TensorSet(pixels, images.labels, images.class_names, images.name, images.split)
    sized.mirror = images.mirror
    return sized


def halves_of(name: str) -> tuple[list[str], list[tuple[str, ...]], float]:
    """(names of the two halves, the classes of each or none for all, how often they agree) of a name.

    Raises:
        DataError: for a name that is not of the form.
    """
    body, at, share = name.removeprefix(PREFIX).partition("@")
    halves = [half.split("/") for half in body.split("+")]
    if len(halves) != 2 or not all(word.strip() for half in halves for word in half):
        raise DataError(f"{name!r} names no dominoes: write {_FORM}")
    if at and not re.fullmatch(r"0?\.\d+|[01](\.0*)?", share):
        raise DataError(f"{name!r}: behind @ stands how often the halves agree, from 0 to 1, not {share!r}")
    names = [half[0] for half in halves]
    classes = [tuple(half[1:]) for half in halves]
    if not any(classes):
        classes = [tuple(each) for each in PUBLISHED.get((names[0], names[1]), ((), ()))]
    if classes[0] and classes[1] and len(classes[0]) != len(classes[1]):
        raise DataError(f"{name!r} pairs {len(classes[0])} classes with {len(classes[1])}: name as many of each half")
    return names, classes, float(share) if at else 1.0
