"""From what a source found to an image set: which size, which channels, in memory or on disk."""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from kedge.data.decode import CROP_SHARE, SMALL
from kedge.data.items import Items
from kedge.data.origin import of_items
from kedge.data.report import DataError, LoadReport, UnreadableImage
from kedge.data.sets import FileSet, ImageSet, TensorSet
from kedge.data.undecoded import Undecoded, encoded_keys, small_image

log = logging.getLogger(__name__)

PHOTO_SIZE = 224  # side of the evaluation view of larger images unless told
_PROBED = 256  # headers that are read to find out a set's size and channels
_CHECKED = 50_000  # more files than this are not all opened while loading
_SAMPLED = 2_000  # of such a large set this many are
_IN_MEMORY = 4 << 30  # bytes of decoded images beyond which even small ones stay on disk


@dataclass
class Found:
    """What a source found: encoded images with labels, before any is decoded."""

    items: Items
    labels: Sequence[int] | torch.Tensor
    class_names: list[str]
    name: str
    split: str
    notes: list[str] = field(default_factory=list)
    has_paths: bool = True


def build(
    found: Found,
    image_size: int | None = None,
    channels: int | None = None,
    crop_share: float = CROP_SHARE,
    decode: bool = True,
) -> ImageSet:
    """Return a TensorSet where the images (or `image_size`) are at most 64 px, else a FileSet.

    The channels are those of the majority of the images unless given. Without `image_size` small images keep their
    size; where sizes are mixed they become squares of the largest side; larger images get 224. `crop_share` is that of
    larger images, see FileSet. Without `decode` the first is an Undecoded, and of the second only headers are read.

    Raises:
        DataError: no images, a bad `image_size` or `channels`, or more than 1 % unreadable.
    """
    if image_size is not None and image_size < 1:
        raise DataError(f"image_size must be at least 1 pixel, got {image_size}")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    count = len(found.items)
    if count == 0:
        raise DataError(f"{found.name}: the split {found.split!r} holds no images")
    shapes, first = _probe(found.items)
    if not shapes:
        raise DataError(f"{found.name}: none of {min(count, _PROBED)} images looked at can be read; the first: {first}")
    if channels is None:
        channels = Counter(depth for _, depth in shapes).most_common(1)[0][0]
    sizes = Counter(size for size, _ in shapes)
    largest = max(max(size) for size in sizes)
    if image_size is not None:
        target = (image_size, image_size)
    elif largest > SMALL:
        target = (PHOTO_SIZE, PHOTO_SIZE)
    else:
        target = next(iter(sizes)) if len(sizes) == 1 else (largest, largest)
    report = LoadReport(total=count, notes=list(found.notes))
    in_memory = count * channels * target[0] * target[1] <= _IN_MEMORY
    images: ImageSet
    if max(target) <= SMALL and in_memory:
        images = (_tensor_set if decode else _undecoded)(found, (channels, *target), report)
    else:
        images = _file_set(found, max(target), channels, report, crop_share, decode)
        images.origin = of_items(found.items, [size for size, _ in shapes])
    report.check(found.name)
    if report.skipped:
        path, reason = report.skipped[0]
        log.warning("%s: %d unreadable images skipped, such as %s: %s", found.name, len(report.skipped), path, reason)
    missing = [c for c, n in zip(images.class_names, _class_counts(images), strict=True) if n == 0]
    if missing:
        report.notes.append(f"no images of {len(missing)} classes in {found.split!r}: {_listed(missing)}")
    return images


def _probe(items: Items) -> tuple[list[tuple[tuple[int, int], int]], UnreadableImage | None]:
    """((height, width), channels) of some of the images, and what was wrong with the first that cannot be read."""
    step = max(1, len(items) // _PROBED)
    shapes, first = [], None
    for i in range(0, len(items), step):
        try:
            shapes.append(items.header(i))
        except UnreadableImage as error:
            first = first or error
    return shapes, first


def _tensor_set(found: Found, shape: tuple[int, int, int], report: LoadReport) -> TensorSet:
    items, count = found.items, len(found.items)
    images = torch.empty((count, *shape), dtype=torch.uint8)
    kept = torch.ones(count, dtype=torch.bool)
    sizes = set()
    for i in range(count):
        try:
            images[i], stored = small_image(items, i, shape)
        except UnreadableImage as error:
            report.skip(error)
            kept[i] = False
            continue
        sizes.add((stored[1], stored[2]))
        _count_change(report, stored, shape)
    labels = torch.as_tensor(found.labels, dtype=torch.long)
    if report.skipped:
        images, labels = images[kept], labels[kept]
    paths = _names(found, kept)
    made = TensorSet(images, labels, found.class_names, found.name, found.split, report, paths)
    made.origin = of_items(items, sorted(sizes))
    made.source = encoded_keys(items, kept.nonzero().squeeze(1))
    return made


def _undecoded(found: Found, shape: tuple[int, int, int], report: LoadReport) -> Undecoded:
    items = found.items
    kept = torch.ones(len(items), dtype=torch.bool)
    sizes = set()
    for i in range(len(items)):
        try:
            size, depth = items.header(i)
        except UnreadableImage as error:
            report.skip(error)
            kept[i] = False
            continue
        sizes.add(size)
        _count_change(report, (depth, *size), shape)
    rows = kept.nonzero().squeeze(1)
    labels = torch.as_tensor(found.labels, dtype=torch.long)[rows]
    paths = _names(found, kept)
    made = Undecoded(items, rows, labels, found.class_names, shape, found.name, found.split, report, paths)
    made.origin = of_items(items, sorted(sizes))
    return made


def _file_set(found: Found, size: int, channels: int, report: LoadReport, crop_share: float, decode: bool) -> FileSet:
    items, count = found.items, len(found.items)
    checked: Sequence[int] = range(count)
    if count > _CHECKED:
        checked = range(0, count, count // _SAMPLED)
        report.notes.append(f"{len(checked)} of {count} images were checked; the others are checked as they are read")
    look = items.check if decode else items.header
    kept = torch.ones(count, dtype=torch.bool)
    for i in checked:
        try:
            depth = look(i)[1]
        except UnreadableImage as error:
            report.skip(error)
            kept[i] = False
            continue
        if depth != channels:
            _count_conversion(report, channels)
    rows = kept.nonzero().squeeze(1)
    labels = torch.as_tensor(found.labels, dtype=torch.long)[rows]
    paths = _names(found, kept)
    made = FileSet(
        items, rows, labels, found.class_names, channels, size, found.name, found.split, report, paths, crop_share
    )
    made.checked = decode and len(checked) == count
    return made


def _count_change(report: LoadReport, stored: tuple[int, ...], shape: tuple[int, int, int]) -> None:
    if stored[0] != shape[0]:
        _count_conversion(report, shape[0])
    if stored[1:] != shape[1:]:
        report.resized += 1


def _count_conversion(report: LoadReport, channels: int) -> None:
    if channels == 1:
        report.converted_colour += 1
    else:
        report.converted_grey += 1


def _names(found: Found, kept: torch.Tensor) -> Sequence[str] | None:
    return found.items.names(kept.nonzero().squeeze(1)) if found.has_paths else None


def _class_counts(images: ImageSet) -> list[int]:
    return torch.bincount(images.labels, minlength=len(images.class_names)).tolist()


def _listed(names: Sequence[str], most: int = 8) -> str:
    return ", ".join(names[:most]) + (f", ... ({len(names)} in all)" if len(names) > most else "")
