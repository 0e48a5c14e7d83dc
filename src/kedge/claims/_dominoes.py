"""Dominoes: an easy image above a hard one, which agree in training and less so elsewhere."""

from functools import cache

import torch
from torch import Tensor

from kedge.claims._images import packed
from kedge.data import ImageSet, TensorSet
from kedge.seeds import generator

__all__ = ["dominoes"]

SIDE = 10
EASY, HARD = ("mnist", ("0", "1")), ("fashion_mnist", ("Coat", "Dress"))


@cache
def _halves(split: str) -> tuple[ImageSet, ImageSet]:
    easy, hard = (packed(name, split, SIDE).only_classes(classes) for name, classes in (EASY, HARD))
    return easy, hard


def dominoes(split: str, count: int, agree: float, seed: int, what: str, start: int = 0) -> ImageSet:
    """Zeros or ones above coats or dresses of 10 px each, whose labels are those of the lower, hard half.

    Args:
        split: of both data sets.
        count: how many, half of them of either class.
        agree: the share of images whose easy half is of the same class as the hard one.
        seed, what: of the draws of pairs.
        start: how many images of each class, in an order drawn by the seed alone, are left for others.
    """
    draws = generator(seed, "dominoes", what)
    labels = (torch.arange(count) % 2)[torch.randperm(count, generator=draws)]
    same = torch.zeros(count, dtype=torch.bool)
    for label in (0, 1):
        own = (labels == label).nonzero()[:, 0]
        same[own[: round(agree * len(own))]] = True
    easy, hard = _halves(split)
    upper = _drawn(easy, torch.where(same, labels, 1 - labels), generator(seed, split, "easy"), start)
    lower = _drawn(hard, labels, generator(seed, split, "hard"), start)
    return TensorSet(torch.cat([upper, lower], 2), labels, hard.class_names, name="dominoes", split=split)


def _drawn(images: ImageSet, labels: Tensor, draws: torch.Generator, start: int) -> Tensor:
    """An image of each label, none twice where there are enough of them."""
    ((pixels, own),) = images.batches(len(images))
    places = torch.zeros_like(labels)
    for label in (0, 1):
        there = (own == label).nonzero()[:, 0]
        order = there[torch.randperm(len(there), generator=draws)]
        wanted = labels == label
        places[wanted] = order[(start + torch.arange(int(wanted.sum()))) % len(order)]
    return pixels[places]
