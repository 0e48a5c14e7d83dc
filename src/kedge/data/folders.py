"""Image folders: root/class/images, or root/train/class/images beside root/val or root/test."""

import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch

from kedge.data.build import Listing
from kedge.data.formats import EXTENSIONS, is_unread
from kedge.data.image_files import about_unread, add_files, images_under, subfolders
from kedge.data.items import FileItems
from kedge.data.paths import PathsBuilder
from kedge.data.report import DataError

_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev", "eval", "evaluation"),
    "test": ("test", "testing"),
}
_LAYOUT = "expected FOLDER/class/images, or FOLDER/train/class/images with FOLDER/val or FOLDER/test beside it"


def canonical_split(name: str) -> str | None:
    """Return "train", "val" or "test" for the names in use for them ("valid", "validation", ...), else None."""
    for split, aliases in _ALIASES.items():
        if name.lower() in aliases:
            return split
    return None


def split_word(stem: str) -> str | None:
    """The word of a file's name that says which split it is of: `test-00000-of-00002`, `cifar10_test`; None without.

    The first word of the name if it says one, else the last that does.
    """
    words = re.findall(r"[A-Za-z]+", stem)
    named = [word for word in words if canonical_split(word)]
    return None if not named else named[0] if named[0] == words[0] else named[-1]


def data_folder() -> Path | None:
    """Return the folder of $KEDGE_DATA, where sets are looked up by name; None where that is not set."""
    folder = os.environ.get("KEDGE_DATA")
    return Path(folder).expanduser() if folder else None


def pack(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of this name in $KEDGE_DATA, or None."""
    packs = data_folder()
    inside = packs / name if packs is not None and os.fspath(name).strip() else None
    return inside if inside is not None and inside.is_dir() else None


def same_place(one: str | None, other: str | None) -> bool:
    """Whether two words name the same data: a folder can be spelled in many ways, and by its name in $KEDGE_DATA."""
    if one is None or other is None or one == other:
        return one == other
    places = [path if (path := Path(each).expanduser()).exists() else pack(each) for each in (one, other)]
    return all(places) and places[0].samefile(places[1])  # type: ignore[union-attr, arg-type]


class ImageFolder:
    """A folder with one folder per class.

    Attributes:
        splits: each split's name to its folder; "all" if there are none.
        lacking: the name of a split to why its folder is none.

    Raises:
        DataError: two folders for one split, or training images without classes in a folder called like a split.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        folders = subfolders(root)
        named = [(split, f) for f in folders if (split := canonical_split(f.name)) is not None]
        splits = {split: f for split, f in named if subfolders(f)}
        self.splits: dict[str, Path] = {"all": root}
        self.lacking = {split: _flat(f) for split, f in named if split not in splits and _images_in(f)}
        self._beside: list[str] = []  # notes on images beside those of the splits
        if "train" in splits or (splits and len(named) == len(folders)):
            _check_twice(root, named)
            if "train" in self.lacking:
                raise DataError(self.lacking["train"])
            self.splits = {split: splits[split] for split in _ALIASES if split in splits}
            others = {f.name: len(images_under(f)) for f in folders if canonical_split(f.name) is None}
            if images := sum(others.values()):
                names = ", ".join([name for name, count in others.items() if count][:8])
                self._beside.append(
                    f"{images} images in folders called neither train, val nor test are not read: {names}"
                )
            self._beside += self.lacking.values()
            return
        # No training part: a lone `train` may be a class of vehicles, images of `val` or `test` belong to none here.
        if self.lacking and (len(self.lacking) > 1 or set(self.lacking) != {"train"} or len(named) == len(folders)):
            raise DataError(next(iter(self.lacking.values())))
        for split, f in splits.items():
            beside = {other.name for other in folders if other != f}
            if both := sorted(beside.intersection(inner.name for inner in subfolders(f))):
                raise DataError(
                    f"{f} holds folders of classes that also lie beside it ({', '.join(both[:8])}): {f.name!r} names a "
                    f"part of the data ({split}), not a class; {_LAYOUT}. "
                    f"Move the folders beside it into {root / 'train'}"
                )

    def listing(self, split: str) -> Listing:
        """List the images of a split.

        Raises:
            DataError: an empty folder, no class folders, or a class that training lacks. A class with no images is the
                `refusal` of the listing.
        """
        root = self.splits[split]
        notes = list(self._beside)
        folders = _classes(root)
        class_names = list(folders)
        if not class_names:
            raise DataError(_no_classes(root))
        if split == "train":
            # A test folder that does not fit is better known before training than after.
            for other in [each for each in self.splits if each != split]:
                self._check_classes(other, list(_classes(self.splits[other])), class_names)
        elif "train" in self.splits:
            train = list(_classes(self.splits["train"]))
            self._check_classes(split, class_names, train)
            class_names = train
        paths = PathsBuilder()
        counts: list[int] = []
        unread = [str(root / name) for name in sorted(os.listdir(root)) if is_unread(name)]
        empty = []
        for class_name in class_names:
            counts.append(add_files(paths, unread, folders.get(class_name, root / class_name)))
            if not counts[-1] and class_name in folders:
                empty.append(class_name)
        if not any(counts):
            raise DataError(f"no images under {root}: {_what_is_in(root)}; {_LAYOUT}")
        refusal = None
        if empty:
            folder = folders[empty[0]]
            refusal = (
                f"{'a class has' if len(empty) == 1 else f'{len(empty)} classes have'} no images: "
                f"{', '.join(empty[:8])}\n{folder} holds {_what_is_in(folder)}. Add images, or move the "
                f"folder out of {root}"
            )
        if loose := _images_in(root):
            notes.append(f"{len(loose)} images in {root} lie in no class folder and are not used, such as {loose[0]}")
        notes += about_unread(unread)
        if (hint := about_inner(root)) is not None:
            notes.append(hint)
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        items = FileItems(paths.paths(), self.root)
        return Listing(items, labels, class_names, self.name, split, notes, refusal=refusal)

    def _check_classes(self, split: str, here: list[str], train: list[str]) -> None:
        extra = sorted(set(here) - set(train))
        if extra:
            lacking = sorted(set(train) - set(here))
            also = f"\nIn 'train' but not in {split!r}: {', '.join(lacking[:8])}." if lacking else ""
            raise DataError(
                f"{self.name}: the split {split!r} has classes that 'train' lacks: {', '.join(extra[:8])}.{also}\n"
                "The folders of both splits need the same names (upper and lower case count)."
            )


def _classes(root: Path) -> dict[str, Path]:
    """The folders of classes by their names, in composed letters: macOS writes an accent as a letter of its own.

    A folder of kedge's runs is none: who stands in the data folder has them there.

    Raises:
        DataError: for two folders of one name.
    """
    folders: dict[str, Path] = {}
    for folder in subfolders(root):
        if _holds_runs(folder):
            continue
        name = unicodedata.normalize("NFC", folder.name)
        if name in folders:
            raise DataError(
                f"{root} has two folders that are called {name}, one with accents as letters of their own (as macOS "
                "writes them): move the images of both into one"
            )
        folders[name] = folder
    return {name: folders[name] for name in sorted(folders)}


def _holds_runs(folder: Path) -> bool:
    """Whether a folder is a run of kedge, or one of runs."""
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(EXTENSIONS):
                    return False  # a class of many images is told by the first
                if entry.name == "recipe.yaml" or os.path.isfile(os.path.join(entry.path, "recipe.yaml")):
                    return True
    except OSError:  # which listing its images says in words
        pass
    return False


def about_inner(root: Path) -> str | None:
    """A sentence where a folder holds but one folder, and that holds folders of images, as unpacking leaves it."""
    inside = subfolders(root)
    if len(inside) != 1 or _images_in(inside[0]):
        return None
    names = [folder.name for folder in subfolders(inside[0]) if images_under(folder)]
    if len(names) < 2:
        return None
    return (
        f"{root} holds one folder, {inside[0].name}, and that holds the folders {', '.join(names[:8])}"
        f"{', ...' if len(names) > 8 else ''}: if those are meant, give {inside[0]}"
    )


def about_order(names: Sequence[str]) -> str | None:
    """A sentence where classes are called by numbers and their order, that of text, is not that of the numbers."""
    if not all(name.isascii() and name.isdecimal() for name in names):
        return None
    by_value = sorted(names, key=int)
    if list(names) == by_value:
        return None
    return (
        f"classes are in the order of their names as text, {', '.join(names[:4])}, ..., and not by value "
        f"({', '.join(by_value[:4])}, ...): answers have the names, but logits and matrices are in that order"
    )


def about_nameless(names: Sequence[str]) -> str | None:
    """What to say of a model that does not name its outputs, before data of classes that `about_order` is about."""
    if (order := about_order(names)) is None:
        return None
    return (
        "it does not name its outputs, so they are taken for the data's classes in turn (model.class_names says which "
        f"they are): {order}"
    )


def _images_in(folder: Path) -> list[str]:
    return sorted(f for f in os.listdir(folder) if f.lower().endswith(EXTENSIONS) and not f.startswith("."))


def _check_twice(root: Path, named: Sequence[tuple[str, Path]]) -> None:
    """Raise DataError for two folders with images that mean the same split."""
    for split in dict(named):
        same = [f.name for part, f in named if part == split]
        if len(same) > 1 and len(same := [name for name in same if images_under(root / name)]) > 1:
            raise DataError(f"{root} holds {' and '.join(same)}, which both mean {split!r}: keep one, or join them")


def _flat(folder: Path) -> str:
    return (
        f"{folder} holds {len(_images_in(folder))} images but no class folders: {folder.name!r} names a part of the "
        f"data, not what is on them; {_LAYOUT}. Move the images of each class into a folder named after it; images "
        "without labels are for kedge predict and --unlabelled"
    )


def _no_classes(root: Path) -> str:
    images = images_under(root)
    if images:
        return (
            f"{root} holds {len(images)} images but no class folders; {_LAYOUT}. "
            "Move the images of each class into a folder named after it."
        )
    return f"{root} holds {_what_is_in(root)}; {_LAYOUT}"


def _what_is_in(folder: Path) -> str:
    names = [f for _, _, files in os.walk(folder) for f in files]
    if not names:
        return "no files"
    kinds = sorted({os.path.splitext(n)[1].lower() or "no extension" for n in names})
    return f"{len(names)} files, none of a kind that is read ({', '.join(kinds[:6])})"
