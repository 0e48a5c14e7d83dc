"""Every image of a data set decoded once: what is damaged, there twice, tiny, or not read at all."""

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

from kedge.auditing.gathering import Part, Pool, gather
from kedge.data.decode import header, open_image, upright_size
from kedge.data.fingerprints import digest_of
from kedge.data.formats import EXTENSIONS, UNREAD, Encoded, opened
from kedge.data.image_files import is_loop
from kedge.data.items import EncodedItems, FileItems
from kedge.data.report import UnreadableImage
from kedge.data.traits import Traits, traits_of

__all__ = ["Checked", "Seen", "check_data"]

TOGETHER = 256  # images that are handed to the threads at a time
TINY, OF_MEDIAN = 64, 0.25  # pixels, and share of the median, below both of which a shorter side is tiny
FEW_DIFFERENT = 2  # images of a class, one to train on and one to judge by
Copies = tuple[int, ...]  # places in the pool of images that are equal bit for bit, the first one first


@dataclass(frozen=True)
class Seen:
    """One image that was decoded.

    Attributes:
        format: what Pillow calls it; "array" without a file.
        height, width: upright, in pixels.
        traits: what of the file is not read, such as further frames (`kedge.data.traits`).
        key: the same for images that are equal bit for bit.
    """

    format: str
    height: int
    width: int
    traits: tuple[str, ...]
    key: bytes


@dataclass(frozen=True)
class Checked:
    """What was seen of a data set.

    Attributes:
        pool: the images that can be read; `pool.unreadable` names the others.
        seen: of each of them.
        hidden: files that hold an image and are not called like one: they are not read.
        others: how many other files there are, by the ends of their names.
    """

    pool: Pool
    seen: tuple[Seen, ...]
    hidden: tuple[str, ...] = ()
    others: tuple[tuple[str, int], ...] = ()

    @cached_property
    def copies(self) -> list[Copies]:
        """Images that are there several times, bit for bit."""
        places: dict[bytes, list[int]] = {}
        for place, each in enumerate(self.seen):
            if each.key:
                places.setdefault(each.key, []).append(place)
        return [tuple(own) for own in places.values() if len(own) > 1]

    @property
    def across(self) -> list[Copies]:
        """Copies in several parts: what is measured on the later one is too good."""
        splits = self.pool.splits
        return [own for own in self.copies if len({splits[i] for i in own}) > 1]

    @property
    def contradicting(self) -> list[Copies]:
        """Copies in several classes."""
        labels = self.pool.labels.tolist()
        return [own for own in self.copies if len({labels[i] for i in own}) > 1]

    @property
    def within(self) -> int:
        """How many images a class of a part holds once more than once."""
        splits, labels = self.pool.splits, self.pool.labels.tolist()
        return sum(len(own) - len({(splits[i], labels[i]) for i in own}) for own in self.copies)

    @property
    def traits(self) -> Traits:
        """The traits of all files."""
        traits = Traits()
        for place, each in enumerate(self.seen):
            if each.traits:
                traits.add(each.traits, self.pool.file(place))
        return traits

    @cached_property
    def shorter(self) -> list[int]:
        """The shorter side of each image, in pixels."""
        return [min(each.height, each.width) for each in self.seen]

    @property
    def tiny(self) -> list[int]:
        """Places of images whose shorter side is below 64 pixels and a quarter of the median."""
        most = min(TINY, OF_MEDIAN * median(self.shorter)) if self.seen else 0
        return [place for place, side in enumerate(self.shorter) if side < most]

    @property
    def lonely(self) -> list[str]:
        """Classes with a single image, copies not counted; none where there are no classes."""
        if not self.pool.labelled:
            return []
        different: dict[int, set[bytes]] = {label: set() for label in range(len(self.pool.class_names))}
        for place, label in enumerate(self.pool.labels.tolist()):
            different[label].add(self.seen[place].key)
        return [self.pool.class_names[label] for label, keys in different.items() if len(keys) < FEW_DIFFERENT]

    @cached_property
    def counts(self) -> dict[str, list[int]]:
        """Of each part, in order, how many images of each class can be read."""
        counts = {split: [0] * len(self.pool.class_names) for split in dict.fromkeys(p.split for p in self.pool.parts)}
        for split, label in zip(self.pool.splits, self.pool.labels.tolist(), strict=True):
            counts[split][label] += 1
        return counts


def check_data(
    data: str,
    val: str | None = None,
    test: str | None = None,
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Checked:
    """Decode every image of a data set, by several threads, and count what is there.

    A JPEG is decoded at an eighth of its size, which reads all of its data and skips most of the arithmetic.

    Args:
        data, val, test: as of `gathering.gather`.
        threads: that decode; None: as many as there are cores, eight at most.
        progress: called with (done, total).

    Raises:
        kedge.data.DataError: as of `gather`.
    """
    pool = gather(data, val, test)
    seen: list[Seen] = []
    damaged: dict[int, str] = {}
    with ThreadPoolExecutor(threads or min(8, _cores())) as workers:
        for start in range(0, len(pool), TOGETHER):
            places = pool.places[start : start + TOGETHER]
            looks = workers.map(_look, *zip(*((pool.parts[number], row) for number, row in places), strict=True))
            for place, each in enumerate(looks, start):
                if isinstance(each, Seen):
                    seen.append(each)
                else:
                    damaged[place] = each.reason
            if progress is not None:
                progress(start + len(places), len(pool))
    hidden, others = _other_files(pool, [place for place in (data, val, test) if place is not None])
    return Checked(pool.without(damaged), tuple(seen), hidden, others)


def _look(part: Part, row: int) -> Seen | UnreadableImage:
    try:
        source = part.source.source(row) if isinstance(part.source, EncodedItems) else None
        if source is None:  # pixels as they are: reading them is all there is to do
            height, width = part.stored(row)
            return Seen("array", height, width, (), part.digest(row))
        return _decoded(source, part.name(row))
    except UnreadableImage as error:
        return error


def _decoded(source: Encoded, name: str) -> Seen:
    open_image(source, name, least=1)
    with opened(source) as image:
        height, width = upright_size(image)
        return Seen(image.format or "", height, width, tuple(traits_of(image)), digest_of(source))


def _other_files(pool: Pool, places: Sequence[str]) -> tuple[tuple[str, ...], tuple[tuple[str, int], ...]]:
    """(files that hold images under other names, how many further files there are by the ends of their names)."""
    if not any(isinstance(part.source, FileItems) for part in pool.parts):
        return (), ()
    hidden, others = [], Counter[str]()
    for place in places:
        for path in _not_called_images(Path(place).expanduser()):
            try:
                header(path)
                hidden.append(path)
            except UnreadableImage:
                others[os.path.splitext(path)[1].lower() or "without an ending"] += 1
    return tuple(hidden), tuple(others.most_common())


def _not_called_images(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith((".", "__MACOSX")) and not is_loop(parent, f))
        for name in sorted(files):
            if not name.startswith(".") and not name.lower().endswith((*EXTENSIONS, *UNREAD)):
                yield os.path.join(parent, name)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
