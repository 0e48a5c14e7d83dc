"""Dividing a set: validation, reference subsets, the fixed split of digits."""

from collections.abc import Sequence

import torch

from kedge.data.report import DataError
from kedge.data.seeds import derive_keys
from kedge.data.sets import ImageSet, class_numbers


def split_validation(images: ImageSet, fraction: float = 0.1, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """Divide a set into training and validation images, the same fraction of each class (at least one image).

    The split depends on (seed, number of images, labels) alone. A class with a single image stays in training.

    Args:
        images: the set.
        fraction: of the images that validation gets, in (0, 1).
        seed: another seed, another split.

    Returns:
        (train, val), each in the set's order, with the set's classes.

    Raises:
        DataError: a fraction outside (0, 1), or no class with two images.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    held = torch.zeros(len(images), dtype=torch.bool)
    for members in _shuffled_classes(images.labels, seed):
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            held[members[:count]] = True
    if not held.any():
        raise DataError(f"{images.name}: no class has two images, so none can be held out for validation")
    train, val = images.subset(~held), images.subset(held)
    train.split, val.split = "train", "val"
    return train, val


def reference_subset(
    images: ImageSet, classes: Sequence[str | int] | None = None, n: int | None = None, seed: int = 0
) -> ImageSet:
    """Return the images from which references are drawn: of some classes, or n of them, or both. Labels stay.

    Raises:
        DataError: an unknown class, or more images asked for than there are.
    """
    index = torch.arange(len(images))
    if classes is not None:
        wanted = torch.tensor(class_numbers(images, classes))
        index = index[torch.isin(images.labels, wanted)]
    if n is not None:
        if not 1 <= n <= len(index):
            raise DataError(f"{images.name}: asked for {n} reference images, there are {len(index)}")
        index = index[_shuffled(len(index), seed)[:n]].sort().values
    return images.subset(index)


def digits_split(labels: torch.Tensor, split: str) -> torch.Tensor:
    """Return the indices of scikit-learn's digits in "train" (70 %), "val" (10 %) or "test" (20 %), stratified.

    The split is fixed for good: it rests on SplitMix64, not on the random generator of any library's version.
    """
    chosen = []
    for members in _shuffled_classes(labels, seed=0):
        test, val = round(0.2 * len(members)), round(0.1 * len(members))
        parts = {"test": members[:test], "val": members[test : test + val], "train": members[test + val :]}
        chosen.append(parts[split])
    return torch.cat(chosen).sort().values


def _shuffled_classes(labels: torch.Tensor, seed: int) -> list[torch.Tensor]:
    order = _shuffled(len(labels), seed)
    return [order[labels[order] == c] for c in range(int(labels.max()) + 1)]


def _shuffled(count: int, seed: int) -> torch.Tensor:
    return derive_keys(torch.arange(count), seed, "split").argsort(stable=True)
