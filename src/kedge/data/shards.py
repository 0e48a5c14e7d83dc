"""Tar shards in the layout of WebDataset, name.jpg beside name.cls: read in turn, or by the place of each image."""

import glob
import math
import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch

from kedge.data.build import Listing
from kedge.data.folders import canonical_split, split_word
from kedge.data.formats import EXTENSIONS, Encoded
from kedge.data.items import EncodedItems
from kedge.data.labels import Label, about_unnamed, numbered
from kedge.data.paths import Paths
from kedge.data.report import DataError, UnreadableImage
from kedge.data.sets import ImageSet
from kedge.data.streams import Sample, StreamSet, divided
from kedge.regular import open_file, read_text

CLASSES = "classes.txt"
_RANGE = re.compile(r"\{(\d{1,18})\.\.(\d{1,18})\}")  # more digits than int() takes are no range
_LARGEST = 1 << 20  # bytes of a .cls, which holds a number or a name
_LARGEST_NAMES = 100_000_000  # bytes of classes.txt
_LARGEST_IMAGE = 1 << 30  # bytes, encoded
_MOST = 1_000_000  # shards that a pattern names


class Shards:
    """Tar files: a folder of them, one, or a pattern such as shards/train-{000000..000009}.tar or shards/train-*.tar.

    The part of the data that a shard belongs to is what its name begins with: train-000000.tar, val-000000.tar. Those
    beside the ones that a pattern names give the other parts. `classes.txt` beside them names the classes, a line for
    each; else text in .cls is a name and a number stands for itself.

    Attributes:
        splits: each part's name to its shards, in order; "all" where their names say nothing.

    Raises:
        DataError: shards that are named and not there, or no shard at all.
    """

    def __init__(self, name: str) -> None:
        pattern = Path(name).expanduser()
        folder = pattern if pattern.is_dir() else pattern.parent
        beside = [Path(e.path) for e in os.scandir(folder) if e.name.endswith(".tar")] if folder.is_dir() else []
        named = [] if pattern.is_dir() else _expanded(str(pattern))
        if missing := [path for path in named if not path.is_file()]:
            raise DataError(f"{len(missing)} of the {len(named)} shards of {name} are not there: {missing[0]}, ...")
        own = {_split(path) for path in named}
        shards = [*named, *(path for path in sorted(beside) if _split(path) not in own)]
        if not shards or (not named and not pattern.is_dir()):
            raise DataError(f"no shards match {name}")
        self.name = folder.resolve().name
        self.splits: dict[str, list[Path]] = {}
        for path in shards:
            self.splits.setdefault(_split(path), []).append(path)
        if not named and len(self.splits) > 1 and "all" in self.splits:
            others = self.splits.pop("all")
            raise DataError(
                f"{folder} holds shards of no part beside others: {others[0].name} is neither train nor val"
            )
        self._classes = folder / CLASSES

    @property
    def class_names(self) -> list[str] | None:
        """The names in classes.txt beside the shards; None without it."""
        if not self._classes.exists():
            return None
        try:
            lines = read_text(self._classes, _LARGEST_NAMES).splitlines()
        except ValueError as error:
            raise DataError(str(error)) from None
        return [line.strip() for line in lines if line.strip()]

    def listing(self, split: str) -> Listing:
        """List the images of a part: where each lies, none of them read.

        Raises:
            DataError: a shard that is no tar file, an image without a .cls, a class that classes.txt lacks.
        """
        shards = self.splits[split]
        places: list[tuple[int, int, int]] = []
        paths: list[str] = []
        labels: list[Label] = []
        for number, path in enumerate(shards):
            for key, offset, size, label in _members(path):
                places.append((number, offset, size))
                paths.append(f"{path}:{key}")
                labels.append(label)
        where, class_names = str(shards[0].parent), self.class_names
        numbers, names = numbered(labels, class_names, where)
        items = TarItems(shards, np.array(places, dtype=np.int64).reshape(-1, 3), Paths.of(paths))
        return Listing(items, numbers, names, self.name, split, about_unnamed(labels, class_names, CLASSES))

    def stream(
        self, split: str, image_size: int | None, val_fraction: float, seed: int
    ) -> tuple[StreamSet, ImageSet | None]:
        """Training images of a part that are read in turn, see `from_stream`."""
        split = split if split == "train" else "all"
        if split not in self.splits:
            raise DataError(f"{self.name} has no shards to train on: their names begin with {', '.join(self.splits)}")
        pieces, naming = TarPieces(self.splits[split]), f"a file {self._classes}, a line for each,"
        return divided(pieces, self.class_names, self.name, naming, image_size, None, val_fraction, seed)


class TarPieces:
    """Shards, each a piece that is read from its beginning to its end."""

    def __init__(self, shards: Sequence[Path]) -> None:
        self._shards = list(shards)

    def __len__(self) -> int:
        return len(self._shards)

    def read(self, piece: int, members: torch.Tensor | None = None) -> Iterator[Sample]:
        """The samples of a shard in order; of those that are not `members`, bool [n], no image is read."""
        path = self._shards[piece]
        with open_file(path) as file:
            for place, (key, offset, size, label) in enumerate(_members(path)):
                if members is None or (place < len(members) and bool(members[place])):
                    file.seek(offset)
                    yield Sample(place, f"{path}:{key}", file.read(size), label)


class TarItems(EncodedItems):
    """Images inside tar files, by shard, offset and size, int64 [N, 3]."""

    def __init__(self, shards: Sequence[Path], places: np.ndarray, names: Paths) -> None:
        self._shards, self._places, self._names = list(shards), places, names

    def __len__(self) -> int:
        return len(self._places)

    def name(self, i: int) -> str:
        """Return the shard's path with the image's name in it."""
        return self._names[i]

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the names of the images at `index`, long [M]."""
        return self._names.at(index)

    def source(self, i: int) -> Encoded:
        """Return the image's bytes."""
        shard, offset, size = self._places[i].tolist()
        try:
            with open_file(self._shards[shard]) as file:
                file.seek(offset)
                return file.read(size)
        except (OSError, ValueError) as error:
            raise UnreadableImage(self.name(i), getattr(error, "strerror", None) or str(error)) from None


def is_shards(name: str) -> bool:
    """Whether a name stands for tar shards: a pattern of them, one, or a folder of them."""
    if name.endswith(".tar"):
        return True
    path = Path(name).expanduser()
    return path.is_dir() and any(entry.name.endswith(".tar") for entry in os.scandir(path))


def _members(path: Path) -> Iterator[tuple[str, int, int, Label]]:
    """(name, offset, size, label) of each image of a shard."""
    name, offset, size, any_image = "", 0, 0, False
    label: Label = ""
    stem, has_image, has_label = "", False, False

    def lacking() -> str:
        lacks = "no .cls beside it, which says what is on it" if has_image else "no image beside its .cls"
        words = f"{path}: {stem} has {lacks}: shards hold name.jpg and name.cls, one after the other"
        return (
            words if any_image else f"{words}. Is it an archive of an image folder? Then unpack it and give the folder"
        )

    try:
        with open_file(path) as shard, tarfile.open(fileobj=shard, mode="r:") as tar:
            length = os.fstat(shard.fileno()).st_size
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it remembers all that it saw
                base = os.path.basename(member.name)
                if not member.isfile() or base.startswith("."):
                    continue
                key = member.name[: len(member.name) - len(base)] + base.partition(".")[0]
                kind = base.partition(".")[2].lower()
                if key != stem:
                    if stem and has_image != has_label:
                        raise DataError(lacking())
                    stem, has_image, has_label = key, False, False
                if f".{kind}" in EXTENSIONS:
                    if member.issparse() or member.size > _LARGEST_IMAGE or member.offset_data + member.size > length:
                        raise DataError(
                            f"{path}: {member.name} cannot be an image of the {member.size:,} bytes that are said of "
                            f"it: the file has {length:,}, or it was changed or is cut off"
                        )
                    name, offset, size, has_image = member.name, member.offset_data, member.size, True
                elif kind == "cls":
                    file = tar.extractfile(member)
                    text = file.read(_LARGEST).decode("utf-8", "replace").strip() if file else ""
                    label, has_label = int(text) if re.fullmatch(r"-?\d{1,9}", text) else text, True
                else:
                    continue
                if has_image and has_label:
                    any_image = True
                    yield name, offset, size, label
            if stem and has_image != has_label:
                raise DataError(lacking())
    except DataError:
        raise
    except (tarfile.TarError, EOFError, OSError, ValueError, MemoryError, OverflowError, RecursionError) as error:
        raise DataError(f"{path} cannot be read as a tar file: {str(error) or type(error).__name__}") from None


def _split(path: Path) -> str:
    word = split_word(path.name.removesuffix(".tar"))
    return (canonical_split(word) if word else None) or "all"


def _expanded(pattern: str) -> list[Path]:
    match = _RANGE.search(pattern)
    if match is None:
        return [Path(p) for p in sorted(glob.glob(pattern))] if any(c in pattern for c in "*?[") else [Path(pattern)]
    low, high = int(match[1]), int(match[2])
    counts = [int(last) - int(first) + 1 for first, last in _RANGE.findall(pattern)]
    if math.prod(counts) > _MOST:
        raise DataError(f"{pattern} names {math.prod(counts):,} shards, and more than {_MOST:,} cannot be meant")
    if low > high:
        raise DataError(f"{pattern}: {match[0]} is no range from a smaller number to a larger one")
    parts = [f"{pattern[: match.start()]}{n:0{len(match[1])}d}{pattern[match.end() :]}" for n in range(low, high + 1)]
    return [path for part in parts for path in _expanded(part)]
