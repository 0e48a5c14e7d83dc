"""Image folders: root/class/images, or root/train/class/images beside root/val or root/test."""

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from kedge.data.build import Listing
from kedge.data.formats import CONVERT, EXTENSIONS, UNREAD, is_unread
from kedge.data.items import FileItems
from kedge.data.paths import Paths, PathsBuilder
from kedge.data.report import DataError
from kedge.regular import is_folder

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


def data_folder() -> Path | None:
    """Return the folder of $KEDGE_DATA, where sets are looked up by name; None where that is not set."""
    folder = os.environ.get("KEDGE_DATA")
    return Path(folder).expanduser() if folder else None


def pack(name: str | os.PathLike[str]) -> Path | None:
    """Return the folder of this name in $KEDGE_DATA, or None."""
    packs = data_folder()
    inside = packs / name if packs is not None and os.fspath(name).strip() else None
    return inside if inside is not None and inside.is_dir() else None


def is_flat(folder: Path) -> bool:
    """Whether a folder holds images and no folders: what has no classes, such as out-of-distribution images."""
    if not folder.is_dir():
        return False
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    return any(p.suffix.lower() in EXTENSIONS for p in inside) and not any(p.is_dir() for p in inside)


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
        folders = _folders(root)
        named = [(split, f) for f in folders if (split := canonical_split(f.name)) is not None]
        splits = {split: f for split, f in named if _folders(f)}
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
            if both := sorted(beside.intersection(inner.name for inner in _folders(f))):
                raise DataError(
                    f"{f} holds folders of classes that also lie beside it ({', '.join(both[:8])}): {f.name!r} names a "
                    f"part of the data ({split}), not a class; {_LAYOUT}. "
                    f"Move the folders beside it into {root / 'train'}"
                )

    def listing(self, split: str) -> Listing:
        """List the images of a split.

        Raises:
            DataError: an empty folder, no class folders, a class with no images, or a class that training lacks.
        """
        root = self.splits[split]
        notes = list(self._beside)
        class_names = [f.name for f in _folders(root)]
        if not class_names:
            raise DataError(_no_classes(root))
        if "train" in self.splits:
            if split == "train":
                # A test folder that does not fit is better known before training than after.
                for other in self.splits:
                    self._train_classes(other, [f.name for f in _folders(self.splits[other])], [])
            class_names = self._train_classes(split, class_names, notes)
        paths = PathsBuilder()
        counts: list[int] = []
        unread = [str(root / name) for name in sorted(os.listdir(root)) if is_unread(name)]
        empty = []
        for class_name in class_names:
            counts.append(_add_files(paths, unread, root / class_name))
            if not counts[-1] and (root / class_name).is_dir():
                empty.append(class_name)
        if not any(counts):
            raise DataError(f"no images under {root}: {_what_is_in(root)}; {_LAYOUT}")
        if empty:
            folder = root / empty[0]
            raise DataError(
                f"{'a class has' if len(empty) == 1 else f'{len(empty)} classes have'} no images: "
                f"{', '.join(empty[:8])}\n{folder} holds {_what_is_in(folder)}. Add images or remove the folder."
            )
        if loose := _images_in(root):
            notes.append(f"{len(loose)} images in {root} lie in no class folder and are not used, such as {loose[0]}")
        notes += about_unread(unread)
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        return Listing(FileItems(paths.paths()), labels, class_names, self.name, split, notes)

    def _train_classes(self, split: str, here: list[str], notes: list[str]) -> list[str]:
        train = [f.name for f in _folders(self.splits["train"])]
        extra = sorted(set(here) - set(train))
        if extra:
            lacking = sorted(set(train) - set(here))
            also = f"\nIn 'train' but not in {split!r}: {', '.join(lacking[:8])}." if lacking else ""
            raise DataError(
                f"{self.name}: the split {split!r} has classes that 'train' lacks: {', '.join(extra[:8])}.{also}\n"
                "The folders of both splits need the same names (upper and lower case count)."
            )
        return train


def _is_listed(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a file, or a link that leads nowhere, which is told of with the unreadable images."""
    try:
        return entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))
    except OSError:  # a link that leads in a circle
        return True


def _folders(root: Path) -> list[Path]:
    return sorted(
        (Path(e.path) for e in os.scandir(root) if is_folder(e) and not e.name.startswith((".", "__MACOSX"))),
        key=lambda path: path.name,
    )


def files_under(folder: Path) -> tuple[Paths, list[str]]:
    """Return (image files, images of kinds that are not read) in and below a folder, hidden ones left out.

    Raises:
        DataError: a folder in it that cannot be listed.
    """
    images, unread = PathsBuilder(), list[str]()
    _add_files(images, unread, folder)
    return images.paths(), unread


def _add_files(images: PathsBuilder, unread: list[str], folder: Path) -> int:
    """Add what is in and below a folder to `images` and `unread`; gives how many images."""
    count = 0
    if not folder.is_dir():
        return count
    for parent, folders, files in os.walk(folder, onerror=_cannot_list, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and not is_loop(parent, f))
        visible = [name for name in files if not name.startswith(".")]
        count += images.add(parent, sorted(name for name in visible if name.lower().endswith(EXTENSIONS)))
        unread += [os.path.join(parent, name) for name in sorted(visible) if name.lower().endswith(UNREAD)]
    return count


def is_loop(parent: str, name: str) -> bool:
    """Whether a folder is a link to one that it lies in: followed, all images there would be listed again and again."""
    path = os.path.join(parent, name)
    if not os.path.islink(path):
        return False
    return os.path.join(os.path.realpath(parent), "").startswith(os.path.join(os.path.realpath(path), ""))


def _cannot_list(error: OSError) -> None:
    raise DataError(
        f"the folder {error.filename} cannot be listed ({error.strerror}): its images would be missing without a word"
    ) from error


def everything_under(folder: Path) -> Paths:
    """Return the files in and below a folder that are called like images, of kinds that are read or not, sorted.

    Hidden ones are left out.

    Raises:
        DataError: a folder in it that cannot be listed.
    """
    paths = PathsBuilder()

    def add(place: str) -> None:
        try:
            entries = [e for e in os.scandir(place) if not e.name.startswith(".")]
        except OSError as error:
            _cannot_list(error)
        folders = {e.name for e in entries if is_folder(e) and not is_loop(place, e.name)}
        called = (e for e in entries if e.name.lower().endswith((*EXTENSIONS, *UNREAD)))
        files = {e.name for e in called if _is_listed(e)}
        del entries
        # Where a folder stands among files decides the order; runs of files are added at once.
        run: list[str] = []
        for name in sorted(folders | files):
            if name in folders:
                paths.add(place, run)
                run = []
                add(os.path.join(place, name))
            else:
                run.append(name)
        paths.add(place, run)

    add(str(folder))
    return paths.paths()


def images_under(folder: Path) -> Paths:
    """Return the image files in a folder and in those below it, in order; hidden ones are left out."""
    return files_under(folder)[0]


def about_unread(paths: Sequence[str]) -> list[str]:
    """One sentence that counts images of kinds that are not read; or none."""
    if not paths:
        return []
    kinds = Counter(os.path.splitext(path)[1].lower() for path in paths)
    counted = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    are = "file is" if len(paths) == 1 else "files are"
    return [
        f"{len(paths)} image {are} of a kind that is not read and left out: {counted}, such as {paths[0]}. {CONVERT}"
    ]


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
