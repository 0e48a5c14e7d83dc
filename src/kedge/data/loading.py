"""load(): from a name or a path to an image set."""

import os
from pathlib import Path

from kedge.data.build import Listing, build
from kedge.data.decode import Size
from kedge.data.folders import ImageFolder
from kedge.data.image_files import about_unread, files_under, is_flat
from kedge.data.items import FileItems
from kedge.data.parts import RandomisedParts
from kedge.data.report import ALL_BUT_ONE, DataError
from kedge.data.sets import ImageSet
from kedge.data.sources import STREAM, Arrays, Dominoes, Slabs, check_split, is_stream, resolve
from kedge.data.streams import StreamSet


def load(
    name_or_path: str | os.PathLike[str],
    split: str = "train",
    image_size: Size | None = None,
    channels: int | None = None,
    decode: bool = True,
) -> ImageSet:
    """Load one split of an image set.

    A name is looked up in this order: "digits" (scikit-learn's 8x8 handwritten digits, with a fixed train, val and
    test split), "dominoes:EASY+HARD" and "slabs" (images put together here, see `dominoes` and `slabs`); an existing
    path; a folder of $KEDGE_DATA; a Hugging Face hub name `owner/name`. A path is an image
    folder (FOLDER/class/*.jpg, or FOLDER/train/class/* with FOLDER/val or FOLDER/test) or parquet in the Hugging
    Face image layout.

    Args:
        name_or_path: as above.
        split: "train", "val", "test", or a name of the source's own. A set without splits has the one split
            "all"; asking for "train" gives it too, asking for "val" or "test" is an error.
        image_size: a side in pixels, or (height, width). None keeps the size of images up to 64 px (squares of the
            largest side where sizes are mixed) and takes 224 for larger ones. Up to 64 the set is decoded once into
            memory.
        channels: 1 or 3 converts to grey or RGB; None takes what most of the images are.
        decode: False reads only the headers, for sets of which a part is wanted: `subset`, then `readable`.

    Returns:
        A TensorSet (up to 64 px; without `decode` an Undecoded) or a FileSet (larger); `.report.summary()` tells what
        was skipped or converted.

    Raises:
        DataError: not found, no such split, no images, or more than 1 % of them unreadable.
    """
    source = resolve(name_or_path)
    split = check_split(source, split)
    if isinstance(source, Arrays):
        return source.load(split, image_size, channels)
    return build(source.listing(split), image_size, channels, decode=decode)


def load_unlabelled(
    folder: str | os.PathLike[str], image_size: Size | None = None, channels: int | None = None, decode: bool = True
) -> ImageSet:
    """Load all images in and below a folder as one class, "unlabelled": of classes unknown, or none of a model's.

    Args:
        folder: of image files.
        image_size: as for `load`.
        channels: as for `load`.
        decode: as for `load`.

    Raises:
        DataError: no such folder, no images in it, or none that can be read; some that cannot are left out.
    """
    if not os.fspath(folder).strip():
        raise DataError("the folder's name is empty")
    root = Path(folder).expanduser()
    paths, others = files_under(root)
    unread = about_unread(others)
    if not paths:
        raise DataError(": ".join([f"no images in {root}", *unread]) if root.is_dir() else f"{root} is not a folder")
    items = FileItems(paths, root)
    listing = Listing(items, [0] * len(paths), ["unlabelled"], root.name, "all", unread, limit=ALL_BUT_ONE)
    return build(listing, image_size, channels, decode=decode)


def load_images(
    name_or_path: str | os.PathLike[str], split: str, image_size: Size | None = None, channels: int | None = None
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
    return list(resolve(name_or_path).splits)


def stream(
    name_or_path: str | os.PathLike[str], image_size: int | None = None, val_fraction: float = 0.1, seed: int = 0
) -> tuple[StreamSet, ImageSet | None] | None:
    """(training images that are read in turn, those held out, or None where the data has a part val); None of others.

    Args:
        name_or_path: tar shards as `load` takes them, or `stream:` and parquet files or a hub name.
        image_size: as for `load`.
        val_fraction: of the images that are held out where there is no part val.
        seed: which images those are.

    Raises:
        DataError: as of `from_stream`.
    """
    if not is_stream(name_or_path):
        return None
    source = resolve(name_or_path)
    if isinstance(source, Arrays | ImageFolder):
        raise DataError(f"{os.fspath(name_or_path)}: a folder of images is listed, not streamed: leave out {STREAM!r}")
    split = "train" if "train" in source.splits else next(iter(source.splits))
    return source.stream(split, image_size, 0.0 if "val" in source.splits else val_fraction, seed)


def parts_of(name_or_path: str | os.PathLike[str]) -> RandomisedParts | None:
    """Of images that are put together from parts, such as dominoes: their test images, each part randomised in turn."""
    source = resolve(name_or_path)
    if not isinstance(source, Dominoes | Slabs) or "test" not in source.splits:
        return None
    return RandomisedParts(source.name, source.class_names, source.parts, source.load)
