"""Wrong labels on purpose: how well a way of training bears them."""

from collections.abc import Callable

import torch
from torch import Tensor

from kedge.data.sets import ImageSet
from kedge.seeds import generator

__all__ = ["KINDS", "with_label_noise"]


def with_label_noise(
    images: ImageSet, share: float, seed: int, kind: str = "symmetric", part: str = "train"
) -> ImageSet:
    """Return the same images, a share of whose labels became another class.

    "symmetric" noise takes each other class with equal chance. "pair" noise takes each class for one fixed other class,
    which the seed draws once, the same for all parts: two classes can become the same one. It is that of Chidambaram &
    Ge, ICLR 2024, arXiv 2306.00740 (their code; there each label is wrong with the probability `share`, here that share
    of the images is). Two classes are then told apart no better than the share allows, in new images with such labels
    too: the classes overlap.

    The images whose labels change, round(share * N) of them, and their new labels depend on the seed, the part, the
    number of images and the labels alone.

    Args:
        images: a set of two classes or more.
        share: in [0, 1).
        seed: another seed, other images and other labels.
        kind: "symmetric" or "pair".
        part: "train", or what else these images are, such as "val" or "test": other images of it change.

    Raises:
        ValueError: a share outside [0, 1), a kind that is none, or a single class.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of wrong labels must be 0 or more and below 1, got {share}")
    if kind not in KINDS:
        raise ValueError(f"label noise is one of {', '.join(KINDS)}, not {kind!r}")
    classes = len(images.class_names)
    if classes < 2:
        raise ValueError(f"{images.name} has a single class: its labels have no other class to become")
    draws = generator(seed, "label noise", *([] if part == "train" else [part]))
    chosen = torch.randperm(len(images), generator=draws)[: round(share * len(images))]
    labels = images.labels.clone()
    labels[chosen] = (labels[chosen] + KINDS[kind](labels[chosen], classes, seed, draws)) % classes
    return images.relabelled(labels)


def _symmetric(labels: Tensor, classes: int, seed: int, draws: torch.Generator) -> Tensor:
    return torch.randint(1, classes, (len(labels),), generator=draws)


def _pair(labels: Tensor, classes: int, seed: int, draws: torch.Generator) -> Tensor:
    return torch.randint(1, classes, (classes,), generator=generator(seed, "classes taken for others"))[labels]


# How many classes further on a wrong label lies, `[n]`: labels, classes, the seed of all parts, draws of this one.
KINDS: dict[str, Callable[[Tensor, int, int, torch.Generator], Tensor]] = {"symmetric": _symmetric, "pair": _pair}
