"""From a name or a folder to the source that it stands for: digits, an image folder, parquet, tar shards, the hub."""

import difflib
import os
import re
from pathlib import Path

from kedge.data.digits import Digits
from kedge.data.dominoes import PREFIX, Dominoes, halves_of
from kedge.data.folders import ImageFolder, canonical_split, data_folder, pack
from kedge.data.formats import EXTENSIONS
from kedge.data.published import looks_corrupted
from kedge.data.report import DataError
from kedge.data.shards import Shards, is_shards
from kedge.data.slabs import Slabs
from kedge.data.tables import Hub, Parquet, parquet_files

STREAM = "stream:"


Arrays = Digits | Dominoes | Slabs  # which `load` images themselves
Source = Arrays | ImageFolder | Parquet | Hub | Shards


def resolve(name_or_path: str | os.PathLike[str]) -> Source:
    """Return what a name or path stands for; see `kedge.data.load`.

    Raises:
        DataError: nothing; with what is near it.
        TypeError: neither a text nor a path.
    """
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"data is named by a text or a path, got {type(name_or_path).__name__}")
    if str(name_or_path) == Digits.name:
        return Digits()
    if isinstance(name_or_path, str) and (made := _made_up(name_or_path)) is not None:
        return made
    name = os.fspath(name_or_path).removeprefix(STREAM)
    path = Path(name).expanduser()
    if not name.strip():
        raise DataError("the data's name is empty: give a folder, a name, or 'digits'")
    if path.exists():
        return _from_path(path)
    if name.endswith(".tar") and any(c in name for c in "{*?["):
        return Shards(name)
    if inside := pack(name):
        return _from_path(inside)
    is_path = isinstance(name_or_path, os.PathLike) or path.is_absolute() or name.startswith((".", "~"))
    if not is_path and re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not path.parent.exists():
        return Hub(name)
    raise DataError(_unknown(name, path))


def _made_up(name: str) -> Dominoes | Slabs | None:
    """The source of a name that stands for images put together here; None for others."""
    if name == "slabs" or name.startswith("slabs:"):
        return Slabs(name)
    if not name.startswith(PREFIX):
        return None
    names, classes, agree = halves_of(name)
    if unlike := [half for half in names if half != Digits.name and pack(half) is None]:
        raise DataError(f"{name}: a half is digits or a folder of $KEDGE_DATA, and {unlike[0]!r} is neither")
    return Dominoes(name, [resolve(half) for half in names], classes, agree)


def check_split(source: Source, split: str) -> str:
    """Return the name of a split that a source has, where a set without splits has "train" in "all".

    Raises:
        DataError: it has no such split; with those that it has.
    """
    name = canonical_split(split) or split
    if name == "train" and "train" not in source.splits and "all" in source.splits:
        return "all"
    if name in source.splits:
        return name
    if reason := getattr(source, "lacking", {}).get(canonical_split(split)):
        raise DataError(reason)
    if list(source.splits) == ["all"]:
        raise DataError(
            f"{source.name} is not divided into splits, so it has no {split!r}: take the split 'all' "
            "(--split all; split_validation divides it in Python), or put the images into train and test folders"
        )
    raise DataError(f"{source.name} has no split {split!r}; it has: {', '.join(source.splits)}")


def is_stream(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether training reads this data in turn: tar shards, and what has `stream:` before its name."""
    name = os.fspath(name_or_path)
    return name.startswith(STREAM) or is_shards(name) or (bool(inside := pack(name)) and is_shards(str(inside)))


def _from_path(path: Path) -> Source:
    if is_shards(str(path)):
        return Shards(str(path))
    if path.is_file():
        if path.suffix == ".parquet":
            return Parquet(path)
        if path.suffix.lower() in EXTENSIONS:
            raise DataError(f"{path} is one image: give the folder that holds a folder per class")
        if path.suffix.lower() in (".zip", ".gz", ".tgz", ".7z"):
            raise DataError(f"{path} is an archive: unpack it and give the folder")
        raise DataError(f"{path} is a file, not an image folder or a .parquet file")
    if parquet_files(path):
        return Parquet(path)
    if looks_corrupted(path):
        raise DataError(
            f"{path} is laid out as a published set of corrupted images: kedge.data.published reads it, and kedge "
            "evaluate takes it as --shift"
        )
    return ImageFolder(path)


def _unknown(name: str, path: Path) -> str:
    packs = data_folder()
    lacks = "is not set" if packs is None else "has no such folder" if packs.is_dir() else f"({packs}) is not a folder"
    lines = [f"no data called {name!r}: it is no path, and $KEDGE_DATA {lacks}"]
    known = ["digits"]
    if packs is not None and packs.is_dir():
        known += [f.name for f in packs.iterdir() if f.is_dir()]
    near = difflib.get_close_matches(name, known, n=3)
    if path.parent.is_dir():
        siblings = [f.name for f in path.parent.iterdir() if f.is_dir() and not f.name.startswith(".")]
        near += [str(path.parent / s) for s in difflib.get_close_matches(path.name, siblings, n=3)]
    elif missing := next((p for p in reversed(path.parents) if not p.exists()), None):
        lines.append(f"the folder {missing} does not exist")
    if near:
        lines.append(f"did you mean {' or '.join(dict.fromkeys(near))}?")
    lines.append(
        "give an image folder (FOLDER/class/*.jpg), a folder of parquet files, 'digits', a folder of $KEDGE_DATA, "
        "or a Hugging Face hub name such as uoft-cs/cifar10"
    )
    return "\n".join(lines)
