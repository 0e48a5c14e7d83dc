"""Image sets: uint8 images with labels and class names; and those in memory."""

import copy
import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch.utils.data import Dataset

from kedge.checks import check_tensor, whole_labels
from kedge.data.decode import Size
from kedge.data.fingerprints import key_of_pixels
from kedge.data.origin import Origin, of_arrays
from kedge.data.paths import Paths
from kedge.data.report import DataError, LoadReport, UnreadableImage
from kedge.own_code import near_names

Indices = Sequence[int] | torch.Tensor


class ImageSet(Dataset):
    """Labelled images of one shape.

    `set[i]` is (uint8 tensor [C, H, W], int label): the evaluation view, without augmentation.

    Attributes:
        name: of the data set.
        split: "train", "val", "test", "all" (a set without splits) or what the source calls it.
        class_names: one per class, in the order of the labels.
        labels: long [N].
        image_shape: (C, H, W).
        report: what happened while loading.
        paths: where each image comes from, or None; for reports.
        mirror: whether a mirrored image keeps its label. False where every class is a single character, as in
            handwritten digits; set it to change what training does.
        origin: file formats and sizes before decoding; a subset keeps that of the whole.
    """

    def __init__(
        self,
        name: str,
        split: str,
        class_names: Sequence[str],
        labels: torch.Tensor,
        image_shape: tuple[int, int, int],
        report: LoadReport | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        self.name = name
        self.split = split
        self.class_names = [str(c) for c in class_names]
        self.labels = whole_labels(labels, name)
        self.image_shape = image_shape
        self.report = LoadReport(total=len(self.labels)) if report is None else report
        self.paths = None if paths is None else Paths.of(paths)
        self.origin = Origin({})
        self.mirror = not all(len(c) == 1 for c in self.class_names)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        raise NotImplementedError

    def uncropped(self, i: int) -> Any:
        """Return image i as training crops are taken from it: a PIL image or uint8 tensor, of any size.

        Raises:
            UnreadableImage: it cannot be read.
        """
        return self[i][0]

    def __repr__(self) -> str:
        channels, height, width = self.image_shape
        return (
            f"{type(self).__name__}({self.name!r}, {self.split!r}, {len(self)} images {channels}x{height}x{width}, "
            f"{len(self.class_names)} classes)"
        )

    def batches(self, batch_size: int, workers: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (uint8 [B, C, H, W], long [B]) in the order of the set; the last batch may be smaller.

        Raises:
            UnreadableImage: an image that could be read when the set was loaded no longer can.
        """
        for start in range(0, len(self), batch_size):
            labels = self.labels[start : start + batch_size]
            yield torch.stack([self[i][0] for i in range(start, start + len(labels))]), labels

    def subset(self, indices: Indices) -> Self:
        """Return the images at `indices` (any order, repeats allowed), with the same classes and labels."""
        index = _index_tensor(indices, len(self))
        part = copy.copy(self)
        part.labels, part.class_names = self.labels[index], list(self.class_names)
        part.paths = self.paths if self.paths is None else Paths.of(self.paths).at(index)
        part._choose(index)
        return part

    @property
    def sample(self) -> "ImageSet":
        """What references, statistics and a probe are taken from: the set; of one that is read in turn a part of it."""
        return self

    def relabelled(self, labels: torch.Tensor) -> "ImageSet":
        """Return the same images with other labels, long [N]."""
        relabelled = copy.copy(self)  # the images themselves are shared
        relabelled.labels = labels
        return relabelled

    def readable(self) -> tuple["ImageSet", torch.Tensor]:
        """Return (the images that can be read, their places in this set, long [M]), checked unless loading did.

        Those that cannot are added to `report.skipped`.

        Raises:
            DataError: of the set that was loaded more than 1 % cannot be read.
        """
        return self, torch.arange(len(self))

    def first(self, count: int) -> torch.Tensor:
        """Return the first `count` images that can be read, uint8 [n, C, H, W], n below `count` in a smaller set.

        Raises:
            UnreadableImage: none can be read.
        """
        images: list[torch.Tensor] = []
        unreadable: UnreadableImage | None = None
        for i in range(len(self)):
            if len(images) == count:
                break
            try:
                images.append(self[i][0])
            except UnreadableImage as error:
                unreadable = unreadable or error
        if not images and unreadable is not None:
            raise unreadable
        return torch.stack(images)

    def only_classes(self, classes: Sequence[str | int]) -> "ImageSet":
        """Return the images of these classes (names or numbers), relabelled 0, 1, ... in the order given.

        Raises:
            DataError: a class that the set does not have.
        """
        numbers = class_numbers(self, classes)
        relabel = torch.full((len(self.class_names),), -1, dtype=torch.long)
        relabel[numbers] = torch.arange(len(numbers))
        part = self.subset((relabel[self.labels] >= 0).nonzero().squeeze(1))
        part.labels = relabel[part.labels]
        part.class_names = [self.class_names[n] for n in numbers]
        return part

    def fingerprint(self) -> str:
        """Return 64 hex digits (sha256) of what is in the set, whatever it is called and wherever it lies.

        They change with the image shape, the labels, the class names, and the pixels of a TensorSet or the encoded
        bytes of a FileSet (of images longer than 32 KiB the length and three pieces, unless they are BMP, TIFF or PNM;
        of more than 50,000 images every second, third, ...).
        """
        return self._digest(self.keys(sampled=True))

    def keys(self, sampled: bool = False) -> list[bytes]:
        """Return one key for each image, equal for equal images; `sampled`: what a fingerprint looks at."""
        raise NotImplementedError

    def _digest(self, keys: list[bytes]) -> str:
        """Return 64 hex digits (sha256) of the keys with the labels, the class names and the image shape."""
        hashed = hashlib.sha256(repr((tuple(self.image_shape), len(self), self.class_names)).encode())
        hashed.update(self.labels.numpy().tobytes())
        for key in keys:
            hashed.update(key)
        return hashed.hexdigest()

    @property
    def keys_of(self) -> str:
        """What the keys are made from; those of two sets can be compared where it is the same."""
        return type(self).__name__

    def _choose(self, index: torch.Tensor) -> None:
        """Leave the images at `index`, long [M], of a copy whose labels and paths are theirs already."""
        raise NotImplementedError


class TensorSet(ImageSet):
    """Images in memory: `images` uint8 [N, C, H, W]. What `load` makes of sets of up to 64 px.

    Attributes:
        source: of images that were decoded (keys of what they were decoded from, what those are made from), else None.
            The keys of an image are then the same whatever size it was brought to.
    """

    def __init__(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        class_names: Sequence[str],
        name: str = "custom",
        split: str = "all",
        report: LoadReport | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        check_tensor(images, like="[N, C, H, W] of uint8")
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise TypeError(f"images must be uint8 [N, C, H, W], got {images.dtype} {list(images.shape)}")
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images but {len(labels)} labels")
        _, channels, height, width = images.shape
        super().__init__(name, split, class_names, labels, (channels, height, width), report, paths)
        self.images = images
        self.origin = of_arrays(images)
        self.source: tuple[list[bytes], str] | None = None

    def keys(self, sampled: bool = False) -> list[bytes]:
        """Return one key for each image: of what it was decoded from, or of its pixels."""
        return self.pixel_keys() if self.source is None else self.source[0]

    def pixel_keys(self) -> list[bytes]:
        """Return one key for each image's pixels."""
        return [key_of_pixels(image) for image in self.images]

    @property
    def keys_of(self) -> str:
        """What they were decoded from, else pixels of one shape."""
        return f"pixels {'x'.join(map(str, self.image_shape))}" if self.source is None else self.source[1]

    def fingerprint(self) -> str:
        """Return 64 hex digits of the pixels, the labels, the class names and the shape."""
        return self._digest(self.pixel_keys())

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images[i], int(self.labels[i])

    def batches(self, batch_size: int, workers: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (uint8 [B, C, H, W], long [B]) in the order of the set; `workers` is not needed here."""
        for start in range(0, len(self), batch_size):
            yield self.images[start : start + batch_size], self.labels[start : start + batch_size]

    def _choose(self, index: torch.Tensor) -> None:
        self.images = self.images[index]
        if self.source is not None:
            self.source = [self.source[0][i] for i in index.tolist()], self.source[1]


def size_of(shape: Sequence[int]) -> Size:
    """The image size at which other images come in `shape` (C, H, W): a side, or (height, width)."""
    _, height, width = shape
    return height if height == width else (height, width)


def check_set(images: Any, what: str) -> None:
    """Raise TypeError, with the way to one, for what is no image set: a loader, a torch data set, arrays, a name."""
    if all(hasattr(images, name) for name in ("name", "class_names", "labels", "image_shape", "subset")):
        return
    raise TypeError(
        f"{what} must be an image set of kedge.data, got {type(images).__name__}: kedge.data.load reads one by its "
        "name or from a folder, kedge.data.from_dataset makes one of a torch data set (such as that of a loader), "
        "kedge.data.TensorSet one of uint8 images [N, C, H, W], labels and class names"
    )


def class_numbers(images: ImageSet, classes: Sequence[str | int]) -> list[int]:
    """Return the label of each class given by name or number.

    Raises:
        DataError: a class that the set does not have, or one named twice.
    """
    numbers = []
    for c in classes:
        if isinstance(c, int) and 0 <= c < len(images.class_names):
            numbers.append(c)
        elif isinstance(c, str) and c in images.class_names:
            numbers.append(images.class_names.index(c))
        else:
            names = ", ".join(images.class_names[:20]) + (", ..." if len(images.class_names) > 20 else "")
            raise DataError(
                f"{images.name} has no class {c!r}{near_names(str(c), images.class_names)}\nIts classes are: {names}"
            )
    if len(set(numbers)) < len(numbers):
        raise DataError(f"a class is named twice in {list(classes)}")
    return numbers


def _index_tensor(indices: Indices, length: int) -> torch.Tensor:
    index = torch.as_tensor(indices)
    if index.dtype == torch.bool:
        if len(index) != length:
            raise IndexError(f"a mask over {length} images needs {length} entries, got {len(index)}")
        return index.nonzero().squeeze(1)
    index = index.long().reshape(-1)
    if len(index) and (int(index.min()) < 0 or int(index.max()) >= length):
        raise IndexError(f"indices must lie in 0..{length - 1}, got {int(index.min())}..{int(index.max())}")
    return index
