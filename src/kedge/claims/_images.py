"""The small images of the claims: parts of named data sets, drawn by the seed."""

import torch

from kedge import data
from kedge.claims._trained import Images
from kedge.data import ImageSet, with_label_noise
from kedge.seeds import generator

__all__ = ["cut", "held_apart", "packed"]


def packed(name: str, split: str, side: int | None = None, channels: int = 1) -> ImageSet:
    """A data set in memory, at `side` pixels; `digits` is always here, others where `KEDGE_DATA` has them.

    Raises:
        kedge.data.DataError: if it is not here.
    """
    return data.load(name, split, side, channels)


def cut(images: ImageSet, count: int, seed: int, what: str = "claim") -> ImageSet:
    """`count` images of a set, drawn by the seed; all of them, in another order, where there are fewer."""
    places = torch.randperm(len(images), generator=generator(seed, what))[:count]
    return images.subset(places)


def held_apart(
    name: str,
    seed: int,
    train: int,
    val: int,
    side: int | None = None,
    channels: int = 1,
    test: int | None = None,
    wrong_labels: float = 0.0,
) -> Images:
    """Training and validation images drawn by the seed from the training images of a set, and its test images.

    Args:
        train, val: how many.
        test: how many test images, the first ones; None: all.
        wrong_labels: the share of training and validation images whose label is another class, drawn uniformly. The
            test labels stay as they are.
    """
    drawn = cut(packed(name, "train", side, channels), train + val, seed)
    parts = [drawn.subset(range(train)), drawn.subset(range(train, len(drawn)))]
    if wrong_labels:
        parts = [with_label_noise(part, wrong_labels, seed + number) for number, part in enumerate(parts)]
    judged = packed(name, "test", side, channels)
    return Images(parts[0], parts[1], judged if test is None else judged.subset(range(min(test, len(judged)))), {})
