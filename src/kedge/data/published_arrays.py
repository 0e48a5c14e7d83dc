"""Published sets in numpy files: CIFAR-10-C, CIFAR-100-C and CIFAR-10.1."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kedge.data.decode import to_tensor
from kedge.data.items import PixelItems
from kedge.data.label_spaces import CIFAR10, CIFAR100
from kedge.data.published_notes import SEVERITIES, about_corruptions
from kedge.data.report import DataError
from kedge.regular import check_file

_TEN_POINT_ONE = re.compile(r"cifar10\.1_(v\d+)_data\.npy")


@dataclass(frozen=True)
class Rows:
    """Rows `start` to `stop` of a file of images, with their labels."""

    path: Path
    start: int
    stop: int
    labels: torch.Tensor


def array_layout(root: Path) -> str | None:
    """Which of the two layouts the files of a folder are called like: "cifar-10.1" or "cifar-c"; None for neither."""
    if any(root.glob("cifar10.1_*_data.npy")):
        return "cifar-10.1"
    if any(not f.name.startswith(".") for f in root.glob("*.npy")):
        return "cifar-c"
    return None


def read_cifar_c(root: Path) -> tuple[str, dict[tuple[str, int | None], Rows], tuple[str, ...], list[str]]:
    """What a folder of labels.npy and <corruption>.npy holds: (name, rows of each condition, class names, notes).

    Each file is `[5 N, H, W, 3]` uint8: N test images at severity 1, the same at severity 2, and so on. The labels
    are those of the N images, or of all 5 N rows.

    Raises:
        DataError: labels or images that are missing, damaged, or of another shape or type; labels of all rows that are
            not five times the same.
    """
    files = sorted(f for f in root.glob("*.npy") if f.name != "labels.npy" and not f.name.startswith("."))
    if not (root / "labels.npy").is_file():
        raise DataError(
            f"{root} has {len(files)} .npy files ({', '.join(f.name for f in files[:3])}, ...) but no labels.npy: "
            "without labels nothing can be measured. The published archive holds it beside the images"
        )
    if not files:
        raise DataError(f"{root} has labels.npy but no <corruption>.npy beside it")
    labels = _labels(root / "labels.npy")
    many = int(labels.max()) >= len(CIFAR10) or re.search(r"cifar-?_?100", root.resolve().name, re.IGNORECASE)
    names = CIFAR100 if many else CIFAR10
    conditions: dict[tuple[str, int | None], Rows] = {}
    for file in files:
        rows = len(_images(file))
        count = rows // SEVERITIES
        if rows % SEVERITIES or rows == 0:
            raise DataError(f"{file} holds {rows} images, which five severities cannot share evenly: is it cut off?")
        if len(labels) not in (rows, count):
            raise DataError(
                f"{file} holds {rows} images, {count} at each of five severities, but labels.npy has {len(labels)} "
                "labels"
            )
        theirs = labels[:count]
        for severity in range(1, SEVERITIES + 1):
            start, stop = (severity - 1) * count, severity * count
            if len(labels) == rows and not torch.equal(labels[start:stop], theirs):
                raise DataError(
                    f"{root}: labels.npy has {rows} labels, but not the same ones five times, as the same images at "
                    f"five severities have: those of rows {start} to {stop - 1} differ from the first {count}. Give "
                    f"the published labels.npy, or the labels of the {count} images once; images of one severity alone "
                    "are not read"
                )
            conditions[file.stem, severity] = Rows(file, start, stop, theirs)
    name = "CIFAR-100-C" if names is CIFAR100 else "CIFAR-10-C"
    return name, conditions, names, about_corruptions(name, [file.stem for file in files])


def read_cifar_10_1(root: Path) -> dict[tuple[str, int | None], Rows]:
    """The rows of cifar10.1_v4_data.npy and cifar10.1_v6_data.npy with their labels, as conditions "v4" and "v6".

    Raises:
        DataError: labels or images that are missing, damaged, or of another shape or type.
    """
    conditions: dict[tuple[str, int | None], Rows] = {}
    for file in sorted(root.glob("cifar10.1_*_data.npy")):
        match = _TEN_POINT_ONE.fullmatch(file.name)
        if match is None:
            continue
        beside = file.with_name(file.name.replace("_data", "_labels"))
        if not beside.is_file():
            raise DataError(f"{file} has no {beside.name} beside it: without labels nothing can be measured")
        rows, labels = len(_images(file)), _labels(beside)
        if rows != len(labels) or rows == 0:
            raise DataError(f"{file} holds {rows} images, but {beside.name} has {len(labels)} labels")
        if int(labels.max()) >= len(CIFAR10):
            raise DataError(f"{beside}: label {int(labels.max())} lies outside CIFAR-10's 10 classes")
        conditions[match[1], None] = Rows(file, 0, rows, labels)
    return conditions


class ArrayItems(PixelItems):
    """Rows of an image file, read as they are asked for; the file is opened in each process that reads it."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._open: np.ndarray | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": None}  # a memory map would be copied whole into a worker

    def __len__(self) -> int:
        return self._rows.stop - self._rows.start

    def name(self, i: int) -> str:
        """Return the file with the row's number."""
        return f"{self._rows.path}:{self._rows.start + i}"

    def header(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels), which the file says of all."""
        height, width, channels = self._images().shape[1:]
        return (height, width), channels

    def image(self, i: int, least: int | None = None) -> torch.Tensor:
        """Return row i as uint8 [C, H, W]."""
        return to_tensor(np.array(self._images()[self._rows.start + i]))

    def _images(self) -> np.ndarray:
        if self._open is None:
            self._open = _images(self._rows.path)
        return self._open


def _images(path: Path) -> np.ndarray:
    array = _array(path)
    if array.ndim != 4 or array.shape[3] not in (1, 3) or 0 in array.shape[1:] or array.dtype != np.uint8:
        raise DataError(
            f"{path} holds {array.dtype} of shape {list(array.shape)}; expected uint8 images of shape [N, 32, 32, 3]"
        )
    return array


def _labels(path: Path) -> torch.Tensor:
    array = _array(path)
    if array.ndim != 1 or array.dtype.kind not in "iu":
        raise DataError(f"{path} holds {array.dtype} of shape {list(array.shape)}; expected one whole number per image")
    if len(array) == 0:
        raise DataError(f"{path} holds no labels")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= len(CIFAR100):
        raise DataError(f"{path} holds labels from {low} to {high}; CIFAR's are 0 to 9, or 0 to 99")
    return torch.from_numpy(array.astype(np.int64))


def _array(path: Path) -> np.ndarray:
    try:
        check_file(path)
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(
            f"{path} cannot be read as a numpy array of numbers: it is damaged, cut off, or holds Python objects, "
            f"which are never loaded ({str(error).splitlines()[0] if str(error) else type(error).__name__})"
        ) from None
    if not isinstance(array, np.ndarray):
        raise DataError(f"{path} is an archive of arrays (.npz), not one array")
    return array
