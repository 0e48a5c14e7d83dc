"""Image folders: root/class/images, or root/train/class/images beside root/val or root/test."""

import os
from pathlib import Path

from kedge.data.build import Found
from kedge.data.items import FileItems
from kedge.data.report import DataError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jfif")
_ALIASES = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_LAYOUT = "expected FOLDER/class/images, or FOLDER/train/class/images with FOLDER/val or FOLDER/test beside it"


def canonical_split(name: str) -> str | None:
    """Return "train", "val" or "test" for the names in use for them ("valid", "validation", ...), else None."""
    for split, aliases in _ALIASES.items():
        if name.lower() in aliases:
            return split
    return None


class ImageFolder:
    """A folder with one folder per class. `splits` maps each split's name to its folder; "all" if there are none."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = root.resolve().name
        folders = _folders(root)
        splits = {canonical_split(f.name): f for f in folders if _folders(f)}
        splits.pop(None, None)  # folders that are no split
        self.splits: dict[str, Path] = {"all": root}
        if "train" in splits or (splits and len(splits) == len(folders)):
            self.splits = {split: splits[split] for split in _ALIASES if split in splits}

    def find(self, split: str) -> Found:
        """List the images of a split.

        Raises:
            DataError: an empty folder, no class folders, a class with no images, or a class that training lacks.
        """
        root = self.splits[split]
        notes: list[str] = []
        class_names = [f.name for f in _folders(root)]
        if not class_names:
            raise DataError(_no_classes(root))
        if "train" in self.splits:
            if split == "train":
                # A test folder that does not fit is better known before training than after.
                for other in self.splits:
                    self._train_classes(other, [f.name for f in _folders(self.splits[other])], [])
            class_names = self._train_classes(split, class_names, notes)
        paths: list[str] = []
        labels: list[int] = []
        empty = []
        for label, class_name in enumerate(class_names):
            files = images_under(root / class_name)
            paths += files
            labels += [label] * len(files)
            if not files and (root / class_name).is_dir():
                empty.append(class_name)
        if not paths:
            raise DataError(f"no images under {root}: {_what_is_in(root)}; {_LAYOUT}")
        if empty:
            folder = root / empty[0]
            raise DataError(
                f"{'a class has' if len(empty) == 1 else f'{len(empty)} classes have'} no images: "
                f"{', '.join(empty[:8])}\n{folder} holds {_what_is_in(folder)}. Add images or remove the folder."
            )
        return Found(FileItems(paths), labels, class_names, self.name, split, notes)

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


def _folders(root: Path) -> list[Path]:
    return sorted(
        (Path(e.path) for e in os.scandir(root) if e.is_dir() and not e.name.startswith((".", "__MACOSX"))),
        key=lambda path: path.name,
    )


def images_under(folder: Path) -> list[str]:
    """Return the image files in a folder and in those below it, in order; hidden ones are left out."""
    found: list[str] = []
    if not folder.is_dir():
        return found
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        found += [
            os.path.join(parent, f) for f in sorted(files) if f.lower().endswith(EXTENSIONS) and not f.startswith(".")
        ]
    return found


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
