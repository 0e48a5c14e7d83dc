"""Fewer images of some classes on purpose: how well a way of training bears rare classes."""

import math
from collections.abc import Sequence

import torch

from kedge.data.sets import ImageSet, class_numbers
from kedge.seeds import generator

KINDS = ("long-tailed", "linear", "step")
_ROUNDING = 1e-9  # 500 * 50 ** -1 is 10 images, whatever its last digit


def imbalanced(
    images: ImageSet,
    ratio: float,
    kind: str = "long-tailed",
    seed: int = 0,
    *,
    rare: float = 0.5,
    order: Sequence[str | int] | None = None,
    largest: int | None = None,
) -> ImageSet:
    """Return some of the images, so many of each class that the most frequent has `ratio` times those of the rarest.

    With C classes and n images of the most frequent one, the class in place k = 0, ..., C - 1 has the integer part of

    - `long-tailed`: n ρ^(-k / (C - 1));
    - `linear`: n (1 - (1 - 1 / ρ) k / (C - 1));
    - `step`: n, and n / ρ of the last round(`rare` C) classes;

    where n is the largest number that leaves every class with no more images than it has. The images stay in their
    order and are none twice. Which classes are rare changes results: it depends on the seed, and so do the images.

    Args:
        images: a set of two classes or more.
        ratio: ρ, 1 or more; 1 gives classes of the same size.
        kind: `long-tailed`, `linear` or `step`.
        seed: another seed, other rare classes and other images.
        rare: of `step`: μ, the share of classes that are rare, inside (0, 1).
        order: all the classes, by name or number, the most frequent first; None: drawn by the seed.
        largest: n, in place of the largest that can be.

    Raises:
        ValueError: for a value out of range; for a set whose rarest class would have no image.
        DataError: for a class that the set does not have, or a set that is read in turn.

    Source: step and linear of Buda et al., arXiv 1710.05381 (as read in its text), long-tailed as in the code of SADE,
        arXiv 2107.09249, which goes back to Cui et al., arXiv 1901.05555.
    """
    if kind not in KINDS:
        raise ValueError(f"the kinds of imbalance are {', '.join(KINDS)}, not {kind!r}")
    if isinstance(ratio, bool) or not isinstance(ratio, int | float) or not 1 <= ratio < math.inf:
        raise ValueError(f"the ratio of the most frequent class to the rarest must be 1 or more, got {ratio!r}")
    classes = len(images.class_names)
    if classes < 2:
        raise ValueError(f"{images.name} has a single class: none of its classes can be rarer than another")
    if order is None:
        places = torch.randperm(classes, generator=generator(seed, "imbalance", "classes")).tolist()
    elif len(places := class_numbers(images, order)) != classes:
        raise ValueError(f"order names all {classes} classes, the most frequent first; it has {len(places)}")
    there = torch.bincount(images.labels, minlength=classes)
    counts = _counts(_shares(kind, float(ratio), classes, rare), there[places].tolist(), largest)
    if not all(counts):
        name = images.class_names[places[counts.index(0)]]
        raise ValueError(
            f"a ratio of {ratio:g} leaves no image of class {name}: the most frequent class has {max(counts)} here"
        )
    draws = generator(seed, "imbalance", "images")
    chosen = torch.zeros(len(images), dtype=torch.bool)
    for place, count in sorted(zip(places, counts, strict=True)):
        members = (images.labels == place).nonzero().squeeze(1)
        chosen[members[torch.randperm(len(members), generator=draws)[:count]]] = True
    return images.subset(chosen.nonzero().squeeze(1))


def _shares(kind: str, ratio: float, classes: int, rare: float) -> list[float]:
    """How many images each place has, in units of the first."""
    if kind == "step":
        few = round(rare * classes)
        if not 0 < few < classes:
            raise ValueError(f"rare is the share of rare classes; {rare} of {classes} would leave none, or all of them")
        return [1.0] * (classes - few) + [1 / ratio] * few
    steps = [k / (classes - 1) for k in range(classes)]
    if kind == "linear":
        return [1 - (1 - 1 / ratio) * step for step in steps]
    return [ratio**-step for step in steps]


def _counts(shares: list[float], there: list[int], largest: int | None) -> list[int]:
    """The images of each place, no more than are there."""
    if largest is None:
        # The integer part of n s is at most t wherever n < (t + 1) / s.
        largest = min(math.ceil((t + 1) / s - _ROUNDING) - 1 for t, s in zip(there, shares, strict=True))
    counts = [math.floor(largest * share * (1 + _ROUNDING)) for share in shares]
    if any(count > t for count, t in zip(counts, there, strict=True)):
        short = next(k for k, (count, t) in enumerate(zip(counts, there, strict=True)) if count > t)
        raise ValueError(f"largest is {largest}, and a class with {there[short]} images would need {counts[short]}")
    return counts
