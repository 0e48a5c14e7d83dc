"""Divide a set into groups: by a column, a folder or the file names of its images."""

import re
from collections.abc import Sequence
from pathlib import PurePath

from kedge.data.groups import Groups
from kedge.data.items import ENCODED
from kedge.data.near import groups
from kedge.data.report import DataError
from kedge.data.sets import ImageSet
from kedge.data.sources import resolve
from kedge.data.tables import Hub, Parquet
from kedge.data.twins import MOST, can_look, twin_pairs

__all__ = ["WAYS", "group_by"]

WAYS = "column:NAME, folder, folder:2, regex:PATTERN, near or class"


def group_by(images: ImageSet, by: str | Sequence[str], source: str | None = None) -> Groups:
    """Divide a set into groups.

    Args:
        images: the set.
        by: `column:NAME` of parquet files or a hub set; `folder`, the folder that a file lies in, `folder:2` the one
            above, and so on; `regex:PATTERN`, what the first bracket of the pattern matches in a file's name, without a
            bracket the whole match; `near`, near twins together (see `kedge.data.twins`), any other image in no group;
            `class`, together with one of these. Several: every combination is a group.
        source: for a column, the name or path that the images were loaded from.

    Raises:
        DataError: for another word, a pattern that is none, images without files, a column that is not there, and for
            what tells no images apart.
    """
    ways = [by] if isinstance(by, str) else list(by)
    if not ways:
        raise DataError(f"groups of a set are named by {WAYS}")
    if ways == ["class"]:
        raise DataError("groups by class alone: every report has the accuracy of each class; add a column or a folder")
    columns = [_words(images, way, source) for way in ways]
    both = [None if None in row or "" in row else ", ".join(map(str, row)) for row in zip(*columns, strict=True)]
    groups = Groups.of(both, " and ".join(ways))
    if len(groups.names) < 2:
        none = int((groups.index < 0).sum())
        what = f"all are in {groups.names[0]!r}" if groups.names else "no image is in one"
        rest = f", {none} in none" if groups.names and none else ""
        raise DataError(f"{images.name}: {groups.by} makes no groups of {len(images)} images: {what}{rest}")
    return groups


def _words(images: ImageSet, way: str, source: str | None) -> list[str | None]:
    """The group of each image by one way, None of none."""
    kind, _, rest = way.partition(":")
    if kind == "class" and not rest:
        return [images.class_names[label] for label in images.labels.tolist()]
    if kind == "column" and rest:
        return _by_column(images, rest, source)
    if kind == "folder" and (not rest or rest.isdecimal()) and rest != "0":
        return _by_folder(images, int(rest or 1))
    if kind == "regex" and rest:
        return _by_name(images, rest)
    if way == "near":
        return _by_looks(images)
    raise DataError(f"groups of a set are named by {WAYS}, not {way!r}")


def _files(images: ImageSet, way: str) -> Sequence[str]:
    if images.paths is None:
        raise DataError(f"{images.name}: its images lie in no files, so {way} says nothing of them")
    return images.paths


def _by_folder(images: ImageSet, level: int) -> list[str | None]:
    parts = [PurePath(path).parts for path in _files(images, "a folder")]
    return [part[-1 - level] if len(part) > level else None for part in parts]


def _by_name(images: ImageSet, pattern: str) -> list[str | None]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise DataError(f"regex:{pattern} is no regular expression: {error}") from None
    names = [PurePath(path).name for path in _files(images, f"regex:{pattern}")]
    matches = [compiled.search(name) for name in names]
    if not any(matches):
        raise DataError(f"{images.name}: regex:{pattern} matches none of {len(names)} file names, such as {names[0]!r}")
    return [match and match[1 if compiled.groups else 0] for match in matches]


def _by_looks(images: ImageSet) -> list[str | None]:
    if not can_look(images):
        raise DataError(
            f"{images.name}: near twins are looked for in sets of images that lie on a disk or in memory, {MOST:,} at "
            f"most, and it has {len(images):,}: name a column, a folder or a pattern of file names"
        )
    numbers, keys = groups(twin_pairs(images), len(images)), images.keys()
    together: dict[int, list[bytes]] = {}
    for number, key in zip(numbers.tolist(), keys, strict=True):
        together.setdefault(number, []).append(key)
    # Called by what is in them, so that their order and names decide nothing.
    return [min(own).hex() if len(own := together[number]) > 1 else None for number in numbers.tolist()]


def _by_column(images: ImageSet, column: str, source: str | None) -> list[str | None]:
    """What a column says of each image, which is known by its bytes; None of one that it says several things of."""
    place = images.name if source is None else source
    table = resolve(place)
    if not isinstance(table, Parquet | Hub) or images.keys_of != ENCODED:
        raise DataError(f"{place} is no parquet files and no hub set, so it has no column {column!r}: use {WAYS}")
    said: dict[bytes, str | None] = {}
    for items, values in table.column(column):
        for i, value in enumerate(values):
            key = items.key(i)
            said[key] = value if said.setdefault(key, value) == value else None
    said.pop(b"", None)  # of what cannot be read
    keys = images.keys()
    return [said.get(key) for key in keys]
