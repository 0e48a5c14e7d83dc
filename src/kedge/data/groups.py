"""Groups within a set, such as cameras, places or persons: which image is in which."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

import torch
from torch import Tensor

__all__ = ["Groups", "series", "series_hint"]

_SERIES = re.compile(r"(?P<thing>.*\d.*)(?:[ _-]|[ _-]?\()\d{1,4}\)?$")
KEEPS_SERIES = "--split_by 'regex:(.+)[ _(-]+[0-9]+'"


@dataclass(frozen=True)
class Groups:
    """Which group each of N images belongs to.

    Attributes:
        by: how that is told, in words.
        names: of the groups, in order.
        index: long `[N]`, places in `names`; -1: of no group.
    """

    by: str
    names: list[str]
    index: Tensor

    @classmethod
    def of(cls, words: Iterable[str | None], by: str = "as named") -> "Groups":
        """The groups that `words` name, one for each image; None: of none. In the order of their names."""
        listed = list(words)
        if other := [word for word in listed if word is not None and not isinstance(word, str)]:
            raise TypeError(f"a group is named by a text, got {other[0]!r} of type {type(other[0]).__name__}")
        names = sorted({word for word in listed if word is not None})
        places = {name: place for place, name in enumerate(names)}
        return cls(by, names, torch.tensor([-1 if w is None else places[w] for w in listed], dtype=torch.long))

    def __len__(self) -> int:
        return len(self.index)

    def at(self, places: Tensor) -> "Groups":
        """Those of the images at `places`, long `[M]`."""
        return Groups(self.by, self.names, self.index[places])

    def counts(self) -> list[int]:
        """How many images each group has."""
        return torch.bincount(self.index[self.index >= 0], minlength=len(self.names)).tolist()

    def words(self) -> list[str | None]:
        """The name of the group of each image; None: of none."""
        return [None if place < 0 else self.names[place] for place in self.index.tolist()]


def series(paths: Sequence[str]) -> list[str | None]:
    """What each file's name is a number of, such as IMG_12 of IMG_12_1.jpg, with its folder; None: of nothing."""
    matches = [(PurePath(path), _SERIES.fullmatch(PurePath(path).stem)) for path in paths]
    return [None if match is None else str(path.parent / match["thing"]) for path, match in matches]


def series_hint(paths: Sequence[str], classes: int) -> str | None:
    """What is to be said where file names such as IMG_12_1.jpg, IMG_12_2.jpg suggest several photos of one thing.

    That is where names without their last number fall together for half the files, in many more ways than there are
    classes, few files in each, and still have a number in them.
    """
    files: dict[str, list[str]] = {}
    for path, thing in zip(paths, series(paths), strict=True):
        if thing is not None:
            files.setdefault(thing, []).append(PurePath(path).name)
    several = [names for names in files.values() if len(names) > 1]
    count = sum(map(len, several))
    if len(several) < max(10, 3 * classes) or 2 * count < len(paths) or count > 20 * len(several):
        return None
    return (
        f"{count} of {len(paths)} files are named like several photos of one thing, such as {several[0][0]} and "
        f"{several[0][1]}: on both sides of a split they promise more than new photos give; "
        f"{KEEPS_SERIES} keeps them together"
    )
