"""load(): from a name or a path to an image set."""

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch

from kedge.checks import whole_labels
from kedge.data.build import Found, build
from kedge.data.decode import DAMAGED, convert_channels
from kedge.data.folders import ImageFolder, about_unread, canonical_split, files_under, is_flat
from kedge.data.formats import EXTENSIONS
from kedge.data.items import DatasetItems, FileItems
from kedge.data.published import looks_corrupted
from kedge.data.report import DataError, LoadReport
from kedge.data.sets import ImageSet, TensorSet
from kedge.data.shards import Shards, is_shards
from kedge.data.splitting import digits_split
from kedge.data.tables import Hub, Parquet, check_most, found_in_dataset, parquet_files

if TYPE_CHECKING:
    from kedge.data.streams import StreamSet

STREAM = "stream:"
_COMPARED = 64  # items whose labels are compared with what the data set states


class _Source(Protocol):
    name: str

    @property
    def splits(self) -> Mapping[str, Any]: ...

    def find(self, split: str) -> Found: ...


def load(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    image_size: int | None = None,
    channels: int | None = None,
    decode: bool = True,
) -> ImageSet:
    """Load one split of an image set.

    A name is looked up in this order: "digits" (scikit-learn's 8x8 handwritten digits, with a fixed train, val and
    test split); an existing path; a folder of $KEDGE_DATA; a Hugging Face hub name `owner/name`. A path is an image
    folder (FOLDER/class/*.jpg, or FOLDER/train/class/* with FOLDER/val or FOLDER/test) or parquet in the Hugging
    Face image layout.

    Args:
        name_or_path: as above.
        split: "train", "val", "test", or a name of the source's own. A set without splits has the one split
            "all"; asking for "train" gives it too, asking for "val" or "test" is an error.
        image_size: side in pixels. None keeps the size of images up to 64 px (squares of the largest side where
            sizes are mixed) and takes 224 for larger ones. Up to 64 the set is decoded once into memory.
        channels: 1 or 3 converts to grey or RGB; None takes what most of the images are.
        decode: False reads only the headers, for sets of which a part is wanted: `subset`, then `readable`.

    Returns:
        A TensorSet (up to 64 px; without `decode` an Undecoded) or a FileSet (larger); `.report.summary()` tells what
        was skipped or converted.

    Raises:
        DataError: not found, no such split, no images, or more than 1 % of them unreadable.
    """
    if str(name_or_path) == "digits":
        return _digits(split, image_size, channels)
    source = _resolve(name_or_path)
    wanted = canonical_split(split) or split
    if wanted == "train" and "train" not in source.splits and "all" in source.splits:
        wanted = "all"
    if wanted not in source.splits:
        raise DataError(_no_split(source, split))
    return build(source.find(wanted), image_size, channels, decode=decode)


def load_unlabelled(
    folder: str | os.PathLike[str], image_size: int | None = None, channels: int | None = None, decode: bool = True
) -> ImageSet:
    """Load all images in and below a folder as one class, "unlabelled": of classes unknown, or none of a model's.

    Args:
        folder: of image files.
        image_size: as for `load`.
        channels: as for `load`.
        decode: as for `load`.

    Raises:
        DataError: no such folder, no images in it, or more than 1 % of them unreadable.
    """
    if not os.fspath(folder).strip():
        raise DataError("the folder's name is empty")
    root = Path(folder).expanduser()
    paths, others = files_under(root)
    unread = about_unread(others)
    if not paths:
        raise DataError(": ".join([f"no images in {root}", *unread]) if root.is_dir() else f"{root} is not a folder")
    found = Found(FileItems(paths), [0] * len(paths), ["unlabelled"], root.name, "all", unread)
    return build(found, image_size, channels, decode=decode)


def load_images(
    name_or_path: str | os.PathLike[str], split: str, image_size: int | None = None, channels: int | None = None
) -> ImageSet:
    """Load images whose classes do not matter: a folder of images and no folders, or a part of what `load` takes.

    Args:
        name_or_path: as for `load`, or a folder that holds images and no folders.
        split: the part, where the set has it; else its last one.
        image_size: as for `load`.
        channels: as for `load`.

    Raises:
        DataError: as of `load`; a set that is read in turn.
    """
    if is_flat(Path(name_or_path).expanduser()):
        return load_unlabelled(name_or_path, image_size, channels)
    if is_stream(name_or_path):
        raise DataError(f"{os.fspath(name_or_path)} is read in turn, which these images cannot be: give them as files")
    offered = splits(name_or_path)
    return load(name_or_path, split if split in offered else offered[-1], image_size, channels)


def splits(name_or_path: str | os.PathLike[str]) -> list[str]:
    """Return the names of the splits that `load` offers, ["all"] for a set without splits.

    Raises:
        DataError: not found.
    """
    if str(name_or_path) == "digits":
        return ["train", "val", "test"]
    return list(_resolve(name_or_path).splits)


def is_stream(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether training reads this data in turn: tar shards, and what has `stream:` before its name."""
    name = os.fspath(name_or_path)
    return name.startswith(STREAM) or is_shards(name) or (bool(inside := _in_room(name)) and is_shards(str(inside)))


def stream(
    name_or_path: str | os.PathLike[str], image_size: int | None = None, val_fraction: float = 0.1, seed: int = 0
) -> "tuple[StreamSet, ImageSet | None] | None":
    """(training images that are read in turn, those held out, or None where the data has a part val); None of others.

    Args:
        name_or_path: tar shards as `load` takes them, or `stream:` and parquet files or a hub name.
        image_size: as for `load`.
        val_fraction: of the images that are held out where there is no part val.
        seed: which images those are.

    Raises:
        DataError: as of `from_stream`.
    """
    from kedge.data.streams import from_stream, tar_stream

    if not is_stream(name_or_path):
        return None
    source = _resolve(name_or_path)
    if isinstance(source, Shards):
        return tar_stream(source, image_size, None, val_fraction, seed)
    if not isinstance(source, Parquet | Hub):
        raise DataError(f"{os.fspath(name_or_path)}: a folder of images is listed, not streamed: leave out {STREAM!r}")
    split = "train" if "train" in source.splits else next(iter(source.splits))
    dataset, names = source.streamed(split)
    fraction = 0.0 if "val" in source.splits else val_fraction
    folder = source.folder if isinstance(source, Parquet) else None
    return from_stream(dataset, names, source.name, image_size, None, fraction, seed, folder)


def from_dataset(
    dataset: Any,
    class_names: list[str] | None = None,
    name: str = "custom",
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Wrap any map-style data set of (image, label), or a Hugging Face `Dataset` with image and label columns.

    Images are PIL, uint8 or float [0, 1] tensors [C, H, W], or arrays [H, W, C]. Images of up to 64 px are decoded
    once into a TensorSet; larger ones are read from `dataset` each time. Labels are those of the items: taken from
    `dataset.targets` or `dataset.labels` where some items agree with it and there is no `target_transform`, else from
    one pass over the data set. Each item is compared with its label whenever it is read.

    Args:
        dataset: with len() and [i].
        class_names: in the order of the labels, and where a Hugging Face `Dataset` has text labels, what these are
            looked up in; None takes `dataset.classes`, else the numbers or the texts.
        name: for reports.
        image_size: as for `load`.
        channels: as for `load`.

    Raises:
        DataError: an empty data set, a stream, several data sets, labels that are no whole numbers or outside
            `class_names`, or an item, now or later, with another label than `dataset.targets` says.
    """
    _check_map_style(dataset, name)
    if len(dataset) == 0:
        raise DataError(f"{name}: the data set is empty")
    if hasattr(dataset, "column_names") and hasattr(dataset, "cast_column"):
        return build(found_in_dataset(dataset, name, "all", class_names), image_size, channels)
    labels = _labels_of(dataset, name)
    if class_names is None:
        stated = getattr(dataset, "classes", None)
        class_names = [str(c) for c in stated or range(check_most(int(labels.max()), name) + 1)]
    if int(labels.min()) < 0 or int(labels.max()) >= len(class_names):
        raise DataError(
            f"{name}: labels run from {int(labels.min())} to {int(labels.max())}, "
            f"but there are {len(class_names)} class names"
        )
    numbers = labels.tolist()
    found = Found(DatasetItems(dataset, name, numbers), numbers, class_names, name, "all", has_paths=False)
    return build(found, image_size, channels)


def _check_map_style(dataset: Any, name: str) -> None:
    """Raise DataError for several data sets at once, and for one that only gives its items in turn."""
    if isinstance(dataset, Mapping) and hasattr(dataset, "cast_column"):
        raise DataError(f"{name}: these are several data sets, {', '.join(map(str, dataset))}: give one of them")
    if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{name}: a {type(dataset).__name__} gives its items in turn, and cannot be counted, divided or shuffled: "
            "kedge.data.from_stream makes training images of one of Hugging Face; else load it without streaming=True, "
            "or take a part of it, such as "
            "datasets.Dataset.from_list(list(stream.take(10000)), features=stream.features)"
        )


def _labels_of(dataset: Any, name: str) -> torch.Tensor:
    try:
        for attribute in ("targets", "labels"):
            stated = getattr(dataset, attribute, None)
            if stated is not None and len(stated) == len(dataset) and _agrees(dataset, stated):
                return whole_labels(stated, name)
        first = dataset[0]
        if isinstance(first, tuple | list) and len(first) > 1:
            return whole_labels([dataset[i][1] for i in range(len(dataset))], name)
    except ValueError as error:
        raise DataError(str(error)) from None
    raise DataError(f"{name}: an item is a {type(first).__name__}, not a pair (image, label): labels are needed")


def _agrees(dataset: Any, stated: Any) -> bool:
    """Whether items have the labels that an attribute of their data set states, as far as some of them tell.

    A `target_transform` changes what the items say and not the attribute; a wrapper may pass on a stale one.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return False
    for i in range(0, len(dataset), max(1, len(dataset) // _COMPARED)):
        try:
            item = dataset[i]
        except DAMAGED:  # an image that cannot be read tells nothing
            continue
        own = item[1] if len(item) > 1 else stated[i]
        if bool(getattr(own, "ndim", 0)) or own != stated[i]:
            return False
    return True


def _digits(split: str, image_size: int | None, channels: int | None) -> TensorSet:
    from sklearn.datasets import load_digits

    wanted = canonical_split(split)
    if wanted is None:
        raise DataError(f"digits has no split {split!r}: take 'train', 'val' or 'test'")
    data = load_digits()
    images = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(data.target).long()
    index = digits_split(labels, wanted)
    images = images[index]
    if image_size is not None and image_size != images.shape[-1]:
        if image_size < 1:
            raise DataError(f"image_size must be at least 1 pixel, got {image_size}")
        from torchvision.transforms.v2 import functional as v2

        images = v2.resize(images, [image_size, image_size], antialias=True)
    if channels is not None:
        images = convert_channels(images, channels)
    names = [str(i) for i in range(10)]
    return TensorSet(images, labels[index], names, "digits", wanted, LoadReport(total=len(index)))


def _resolve(name_or_path: str | os.PathLike[str]) -> _Source:
    if not isinstance(name_or_path, str | os.PathLike):
        raise TypeError(f"data is named by a text or a path, got {type(name_or_path).__name__}")
    name = os.fspath(name_or_path).removeprefix(STREAM)
    path = Path(name).expanduser()
    if not name.strip():
        raise DataError("the data's name is empty: give a folder, a name, or 'digits'")
    if path.exists():
        return _from_path(path)
    if name.endswith(".tar") and any(c in name for c in "{*?["):
        return Shards(name)
    room = os.environ.get("KEDGE_DATA")
    if inside := _in_room(name):
        return _from_path(inside)
    is_path = isinstance(name_or_path, os.PathLike) or path.is_absolute() or name.startswith((".", "~"))
    if not is_path and re.fullmatch(r"[\w.-]+/[\w.-]+(:[\w.-]+)?", name) and not path.parent.exists():
        return Hub(name)
    raise DataError(_not_found(name, path, room))


def _in_room(name: str) -> Path | None:
    """The folder of $KEDGE_DATA of this name, or None."""
    room = os.environ.get("KEDGE_DATA")
    inside = Path(room).expanduser() / name if room and name.strip() else None
    return inside if inside is not None and inside.is_dir() else None


def _from_path(path: Path) -> _Source:
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


def _no_split(source: _Source, split: str) -> str:
    if why := getattr(source, "lacking", {}).get(canonical_split(split)):
        return why
    have = list(source.splits)
    if have == ["all"]:
        return (
            f"{source.name} is not divided into splits, so it has no {split!r}: load split 'all' and divide it "
            "(split_validation), or put the images into train and test folders"
        )
    return f"{source.name} has no split {split!r}; it has: {', '.join(have)}"


def _not_found(name: str, path: Path, room: str | None) -> str:
    lines = [
        f"no data called {name!r}: it is no path, and $KEDGE_DATA " + ("has no such folder" if room else "is not set")
    ]
    if room and not Path(room).expanduser().is_dir():
        lines[0] = f"no data called {name!r}: it is no path, and $KEDGE_DATA ({room}) is not a folder"
    known = ["digits"]
    if room and Path(room).expanduser().is_dir():
        known += [f.name for f in Path(room).expanduser().iterdir() if f.is_dir()]
    near = difflib.get_close_matches(name, known, n=3)
    parent = path.parent
    if parent.is_dir():
        siblings = [f.name for f in parent.iterdir() if f.is_dir() and not f.name.startswith(".")]
        near += [str(parent / s) for s in difflib.get_close_matches(path.name, siblings, n=3)]
    elif (first := _first_missing(path)) is not None:
        lines.append(f"the folder {first} does not exist")
    if near:
        lines.append(f"did you mean {' or '.join(dict.fromkeys(near))}?")
    lines.append(
        "give an image folder (FOLDER/class/*.jpg), a folder of parquet files, 'digits', a folder of $KEDGE_DATA, "
        "or a Hugging Face hub name such as uoft-cs/cifar10"
    )
    return "\n".join(lines)


def _first_missing(path: Path) -> Path | None:
    return next((p for p in reversed(path.parents) if not p.exists()), None)
