"""Dividing a set: validation, reference subsets, the fixed split of digits."""

import math
from collections.abc import Collection, Sequence

import torch

from kedge.data.report import DataError
from kedge.data.sets import ImageSet, class_numbers
from kedge.seeds import derive_keys, unit_interval

_CHANCE = 1e-6  # that a draw which is less likely is taken for a mistake


def split_validation(
    images: ImageSet,
    fraction: float = 0.1,
    seed: int = 0,
    *,
    trained: Collection[bytes] = (),
    held: Collection[bytes] = (),
) -> tuple[ImageSet, ImageSet]:
    """Divide a set into training and validation images by what is in them, about the same fraction of each class.

    An image is held out where a hash of its content (its key, see `ImageSet.keys`) and the seed lies below `fraction`:
    its name and what lies beside it decide nothing, so images that are added, removed or renamed move no other across,
    and equal images fall on one side, also in different classes. Of n images of a class fraction·n are held out, give
    or take sqrt(fraction·(1 - fraction)·n). A class that would have none gives the one with the lowest hash where that
    is no more than twice the fraction of it: of three images one is better trained on. If so no class gives any, the
    lowest hash of all decides. A class that would give all keeps the image with the highest hash; a class with a single
    different image stays in training.

    Another seed is another split. A part of a set that was divided needs another seed to be divided again.

    Args:
        images: the set.
        fraction: of the images that validation gets, in (0, 1).
        seed: another seed, another split.
        trained: keys of images that stay in training whatever their hash, as a model has seen them.
        held: keys of images that are held out whatever their hash, unless they are among `trained`.

    Returns:
        (train, val), each in the set's order, with the set's classes.

    Raises:
        DataError: a fraction outside (0, 1), no class with two different images, nothing but `trained` ones, or a part
            of a set that was divided with the same seed.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    keys = images.keys()
    u = uniform(keys, seed)
    # What cannot be read now is no image to measure on.
    stays = torch.tensor([not key or key in trained for key in keys], dtype=torch.bool)
    goes = torch.tensor([key in held for key in keys], dtype=torch.bool) & ~stays
    out = ((u < fraction) & ~stays) | goes
    free = ~(stays | goes)
    if bool(free.all()) and not bool(out.any()) and len(set(keys)) * math.log1p(-fraction) < math.log(_CHANCE):
        raise DataError(
            f"{images.name}: none of {len(keys)} images falls to validation with seed {seed} and fraction {fraction}: "
            "they are a part of a set that was divided with this seed before. Take another seed"
        )
    _mend(out, free, u, images.labels, least=math.ceil(0.5 / fraction))
    if not out.any():
        left = torch.bincount(images.labels)
        _give_lowest(out, free.nonzero()[:, 0], _Copies(free, u), u, images.labels, left)
    if not out.any():
        why = "a model was trained on all of its images" if bool(stays.all()) else "no class has two different images"
        raise DataError(f"{images.name}: {why}, so none can be held out for validation: add images, or a part val")
    train, val = images.subset(~out), images.subset(out)
    train.split, val.split = "train", "val"
    return train, val


def split_by_position(images: ImageSet, fraction: float, seed: int) -> tuple[ImageSet, ImageSet]:
    """Divide a set as kedge did before it kept which images a run trained on: by positions, number and labels alone.

    One image more or less, or another name, and it is another split. As for `split_validation` otherwise.
    """
    out = torch.zeros(len(images), dtype=torch.bool)
    for members in shuffled_classes(images.labels, seed):
        if len(members) > 1:
            count = min(max(round(fraction * len(members)), 1), len(members) - 1)
            out[members[:count]] = True
    train, val = images.subset(~out), images.subset(out)
    train.split, val.split = "train", "val"
    return train, val


def uniform(keys: Sequence[bytes], seed: int) -> torch.Tensor:
    """A number in [0, 1) for each key, the same for equal keys."""
    words = b"".join(key[:8].ljust(8, b"\0") for key in keys)
    heads = torch.frombuffer(bytearray(words), dtype=torch.int64) if words else torch.zeros(0, dtype=torch.int64)
    return unit_interval(derive_keys(heads, seed, "held out"))


def _mend(out: torch.Tensor, free: torch.Tensor, u: torch.Tensor, labels: torch.Tensor, least: int) -> None:
    """Change `out` so that no class gives all its images and each of `least` or more gives one if it can."""
    every = torch.bincount(labels)
    members = labels.argsort(stable=True).split(every.tolist())  # looked up, as classes may be as many as images
    copies = _Copies(free, u)
    _spare(out, free, u, labels, members, copies)
    gone = torch.bincount(labels[out], minlength=len(every))
    left = every - gone
    for c in ((gone == 0) & (every >= max(2, least))).nonzero()[:, 0].tolist():
        _give_lowest(out, members[c][free[members[c]]], copies, u, labels, left)


def spare(out: torch.Tensor, free: torch.Tensor, u: torch.Tensor, labels: torch.Tensor) -> None:
    """Change `out`, bool [N], so that a class that would give all its images keeps the one with the highest hash."""
    every = torch.bincount(labels)
    _spare(out, free, u, labels, labels.argsort(stable=True).split(every.tolist()), _Copies(free, u))


def _spare(
    out: torch.Tensor,
    free: torch.Tensor,
    u: torch.Tensor,
    labels: torch.Tensor,
    members: Sequence[torch.Tensor],
    copies: "_Copies",
) -> None:
    gone = torch.bincount(labels[out], minlength=len(members))
    every = torch.tensor([len(each) for each in members])
    for c in ((gone == every) & (every > 0)).nonzero()[:, 0].tolist():
        own = members[c]
        own = own[free[own] & out[own]]
        if len(own):
            out[copies.of(u[own].max())] = False


def _give_lowest(
    out: torch.Tensor,
    candidates: torch.Tensor,
    copies: "_Copies",
    u: torch.Tensor,
    labels: torch.Tensor,
    left: torch.Tensor,
) -> None:
    """Put into `out` the candidate with the lowest hash that leaves its class another.

    Equal images go together. `left`, long [C], is how many stay of each class.
    """
    for lowest in u[candidates].unique():
        going = copies.of(lowest)
        going = going[~out[going]]
        classes, counts = labels[going].unique(return_counts=True)
        if bool((left[classes] > counts).all()) and bool((left[labels[copies.of(lowest)]] > 0).all()):
            out[going] = True
            left[classes] -= counts
            return


class _Copies:
    """Where the free images of one hash are, looked up in their order."""

    def __init__(self, free: torch.Tensor, u: torch.Tensor) -> None:
        places = free.nonzero()[:, 0]
        self._u, order = u[places].sort(stable=True)
        self._places = places[order]

    def of(self, value: torch.Tensor) -> torch.Tensor:
        """The places, long [K], of the hash `value`."""
        low, high = (int(torch.searchsorted(self._u, value, right=right)) for right in (False, True))
        return self._places[low:high]


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


def shuffled_classes(labels: torch.Tensor, seed: int) -> list[torch.Tensor]:
    """Return the places of each class's images, shuffled; the same for good for as many images."""
    order = _shuffled(len(labels), seed)
    return [order[labels[order] == c] for c in range(int(labels.max()) + 1)]


def _shuffled(count: int, seed: int) -> torch.Tensor:
    return derive_keys(torch.arange(count), seed, "split").argsort(stable=True)
