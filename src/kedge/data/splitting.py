"""Dividing a set: validation, reference subsets, the fixed split of digits."""

import hashlib
import math
from collections.abc import Collection, Sequence

import torch

from kedge.data.groups import Groups
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, class_numbers
from kedge.seeds import derive_keys, shuffled, unit_interval

_CHANCE = 1e-6  # that a draw which is less likely is taken for a mistake


def split_validation(
    images: ImageSet,
    fraction: float = 0.1,
    seed: int = 0,
    *,
    trained: Collection[bytes] = (),
    held: Collection[bytes] = (),
    groups: Groups | None = None,
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

    With `groups` all images of a group fall on one side, as do groups that share an image: a hash of the group's name
    decides. Photos of one person, object or scene on both sides would promise more than new ones give.

    Args:
        images: the set.
        fraction: of the images that validation gets, in (0, 1).
        seed: another seed, another split.
        trained: keys of images that stay in training whatever their hash, as a model has seen them.
        held: keys of images that are held out whatever their hash, unless they are among `trained`.
        groups: of the images, see `kedge.data.group_by`: of one image among `trained` all stay, else of one among
            `held` all are held out. An image of no group is one by itself.

    Returns:
        (train, val), each in the set's order, with the set's classes.

    Raises:
        DataError: a fraction outside (0, 1), no class with two different images or groups, nothing but `trained` ones,
            or a part of a set that was divided with the same seed.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the validation fraction must lie between 0 and 1, got {fraction}")
    keys, each = images.keys(), units(images, groups)
    u = uniform(each, seed)
    # What cannot be read now is no image to measure on.
    seen = {unit for key, unit in zip(keys, each, strict=True) if key in trained}
    wanted = {unit for key, unit in zip(keys, each, strict=True) if key in held}
    stays = torch.tensor([not unit or unit in seen for unit in each], dtype=torch.bool)
    goes = torch.tensor([unit in wanted for unit in each], dtype=torch.bool) & ~stays
    out = ((u < fraction) & ~stays) | goes
    free = ~(stays | goes)
    if bool(free.all()) and not bool(out.any()) and len(set(each)) * math.log1p(-fraction) < math.log(_CHANCE):
        raise DataError(
            f"{images.name}: none of {len(keys)} images falls to validation with seed {seed} and fraction {fraction}: "
            "they are a part of a set that was divided with this seed before. Take another seed"
        )
    division = Division(out, free, u, images.labels)
    division.spare()
    division.give(least=math.ceil(0.5 / fraction))
    if not out.any():
        division.give_lowest(free.nonzero()[:, 0])
    if not out.any():
        what = "images" if groups is None else f"groups by {groups.by}"
        all_of_it = "all of its images" if groups is None else f"images of each of its {what}"
        why = f"a model was trained on {all_of_it}" if bool(stays.all()) else f"no class has two different {what}"
        raise DataError(f"{images.name}: {why}, so none can be held out for validation: add images, or a part val")
    train, val = images.subset(~out), images.subset(out)
    train.split, val.split = "train", "val"
    return train, val


def units(images: ImageSet, groups: Groups | None = None) -> list[bytes]:
    """For each image a key that it shares with all that must stay on its side; empty for what cannot be read.

    Without groups the key of its content. Else a digest of the name of its group, of the first in the order of names
    of those that are tied by a shared image.

    Raises:
        ValueError: for groups of another number of images.
    """
    keys = images.keys()
    if groups is None:
        return keys
    if len(groups) != len(keys):
        raise ValueError(f"there are {len(keys)} images, and groups of {len(groups)}")
    lead = list(range(len(groups.names)))  # of each group the first that it is tied to

    def first(group: int) -> int:
        while lead[group] != group:
            lead[group] = group = lead[lead[group]]
        return group

    of_key: dict[bytes, int] = {}
    for key, group in zip(keys, groups.index.tolist(), strict=True):
        if key and group >= 0:
            one, other = sorted((first(group), first(of_key.setdefault(key, group))))
            lead[other] = one
    names = [hashlib.sha256(f"group {groups.names[first(group)]}".encode()).digest() for group in lead]
    return [names[of_key[key]] if key in of_key else key for key in keys]


def uniform(keys: Sequence[bytes], seed: int) -> torch.Tensor:
    """A number in [0, 1) for each key, the same for equal keys."""
    words = b"".join(key[:8].ljust(8, b"\0") for key in keys)
    heads = torch.frombuffer(bytearray(words), dtype=torch.int64) if words else torch.zeros(0, dtype=torch.int64)
    return unit_interval(derive_keys(heads, seed, "held out"))


class Division:
    """Images that go out of a set, `out`, bool [N], which the methods change; equal images go together.

    Args:
        out: as their hashes say.
        free: bool [N], those that may go or stay.
        u: the hash of each.
        labels: long [N].
    """

    def __init__(self, out: torch.Tensor, free: torch.Tensor, u: torch.Tensor, labels: torch.Tensor) -> None:
        self._out, self._free, self._u, self._labels = out, free, u, labels
        self._every = torch.bincount(labels)
        self._staying = self._every - torch.bincount(labels[out], minlength=len(self._every))
        # Looked up, as classes may be as many as images; and so are the free images of one hash.
        self._members = labels.argsort(stable=True).split(self._every.tolist())
        places = free.nonzero()[:, 0]
        self._hashes, order = u[places].sort(stable=True)
        self._places = places[order]

    def spare(self) -> None:
        """A class that would give all its images keeps the one with the highest hash."""
        for c in ((self._staying == 0) & (self._every > 0)).nonzero()[:, 0].tolist():
            own = self._members[c]
            own = own[self._free[own] & self._out[own]]
            if len(own):
                self._move(self._copies(self._u[own].max()), out=False)

    def give(self, least: int) -> None:
        """A class of `least` images or more that would give none gives the one with the lowest hash, if it can."""
        for c in ((self._staying == self._every) & (self._every >= max(2, least))).nonzero()[:, 0].tolist():
            self.give_lowest(self._members[c][self._free[self._members[c]]])

    def give_lowest(self, candidates: torch.Tensor) -> None:
        """The one of `candidates`, long [K], with the lowest hash goes, of those that leave their class another."""
        for lowest in self._u[candidates].unique():
            copies = self._copies(lowest)
            going = copies[~self._out[copies]]
            classes, counts = self._labels[going].unique(return_counts=True)
            if bool((self._staying[classes] > counts).all()) and bool((self._staying[self._labels[copies]] > 0).all()):
                self._move(going, out=True)
                return

    def _move(self, places: torch.Tensor, out: bool) -> None:
        """Change the side of images, long [K]."""
        places = places[self._out[places] != out]
        self._out[places] = out
        classes, counts = self._labels[places].unique(return_counts=True)
        self._staying[classes] += -counts if out else counts

    def _copies(self, value: torch.Tensor) -> torch.Tensor:
        """The places, long [K], of the free images of a hash."""
        low, high = (int(torch.searchsorted(self._hashes, value, right=right)) for right in (False, True))
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
        index = index[torch.isin(images.labels, torch.tensor(class_numbers(images, classes)))]
    if n is not None:
        if not 1 <= n <= len(index):
            raise DataError(f"{images.name}: asked for {n} reference images, there are {len(index)}")
        index = index[shuffled(len(index), seed, "split")[:n]].sort().values
    return images.subset(index)
