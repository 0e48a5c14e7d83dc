"""A folder of small pictures for tests that change it: noise, so that each is one of its kind."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_photo(path: Path, seed: int) -> None:
    """A grey picture of 8x8 pixels, another for each seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8), dtype=np.uint8)).save(path)


def write_photos(root: Path, classes: tuple[str, ...] = ("ant", "bee", "cow"), each: int = 100, seed: int = 0) -> Path:
    """`each` pictures in a folder for every class, called m0.png, m1.png, ..."""
    for number, name in enumerate(classes):
        for i in range(each):
            write_photo(root / name / f"m{i:03}.png", 10_000 * seed + 1_000 * number + i)
    return root


def contents(folder: Path) -> set[bytes]:
    """The bytes of all pictures in and below a folder."""
    return {path.read_bytes() for path in folder.rglob("*.png")}


def added(root: Path) -> None:
    """One more photo, the first of all by name."""
    write_photo(root / sorted(p.name for p in root.iterdir())[0] / "a.png", 99_999)


def deleted(root: Path) -> None:
    """The first photo goes."""
    sorted(root.rglob("*.png"))[0].unlink()


def renamed(root: Path) -> None:
    """The first photo becomes the last of its class."""
    first = sorted(root.rglob("*.png"))[0]
    first.rename(first.with_name("z.png"))


def class_renamed(root: Path) -> None:
    """The first class becomes the last by name."""
    first = sorted(p for p in root.iterdir() if p.is_dir())[0]
    first.rename(first.with_name("zebra"))


def damaged(root: Path) -> None:
    """The first photo cannot be read any more."""
    sorted(root.rglob("*.png"))[0].write_bytes(b"\x89PNG not really")


CHANGES = {each.__name__: each for each in (added, deleted, renamed, class_renamed, damaged)}
