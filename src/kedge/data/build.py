"""From encoded images with labels to an image set: which size, which channels, in memory or on disk."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from kedge.data.decode import CROP_SHARE, SMALL, Size, sides
from kedge.data.file_sets import FileSet, Undecoded, small_image
from kedge.data.items import ENCODED, Items
from kedge.data.origin import of_items
from kedge.data.report import UNREADABLE_LIMIT, DataError, LoadReport, UnreadableImage
from kedge.data.sets import ImageSet, TensorSet

log = logging.getLogger(__name__)

PHOTO_SIZE = 224  # side of the evaluation view of larger images unless another is named
_PROBED = 256  # headers that are read to find out a set's size and channels
_CHECKED = 50_000  # more files than this are not all opened while loading
_SAMPLED = 2_000  # of such a large set this many are
_IN_MEMORY = 4 << 30  # bytes of decoded images beyond which even small ones stay on disk
Header = tuple[tuple[int, int], int]  # (height, width), channels
Look = Callable[[int, list[str]], Header]  # of a row; the list is extended by the traits of the file


@dataclass
class Listing:
    """What a source lists: encoded images with labels, before any is decoded."""

    items: Items
    labels: Sequence[int] | torch.Tensor
    class_names: list[str]
    name: str
    split: str
    notes: list[str] = field(default_factory=list)
    has_paths: bool = True
    limit: float = UNREADABLE_LIMIT  # share of the images that may be unreadable
    refusal: str | None = None  # why it is not loaded, where it can be looked through all the same


def build(
    listing: Listing,
    image_size: Size | None = None,
    channels: int | None = None,
    crop_share: float = CROP_SHARE,
    decode: bool = True,
) -> ImageSet:
    """Return a TensorSet where the images (or `image_size`) are at most 64 px, else a FileSet.

    The channels are those of the majority of the images unless given. Without `image_size` small images keep their
    size; where sizes are mixed they become squares of the largest side; larger images get 224. `crop_share` is that of
    larger images, see FileSet. Without `decode` the first is an Undecoded, and of the second only headers are read.

    Raises:
        DataError: a listing that is refused, no images, a bad `image_size` or `channels`, or more unreadable than the
            listing allows.
    """
    if listing.refusal is not None:
        raise DataError(listing.refusal)
    if image_size is not None and min(sides(image_size)) < 1:
        raise DataError(f"image_size must be at least 1 pixel, got {image_size}")
    if channels not in (None, 1, 3):
        raise DataError(f"channels must be 1 (grey) or 3 (RGB), got {channels}")
    items, name, count = listing.items, listing.name, len(listing.items)
    if count == 0:
        raise DataError(f"{name}: the split {listing.split!r} holds no images")
    headers, first = _probe(items)
    if not headers:
        raise DataError(f"{name}: none of {min(count, _PROBED)} images looked at can be read; the first: {first}")
    if channels is None:
        channels = Counter(depth for _, depth in headers).most_common(1)[0][0]
    sizes = Counter(size for size, _ in headers)
    largest = max(max(size) for size in sizes)
    if image_size is not None:
        target = sides(image_size)
    elif largest > SMALL:
        target = (PHOTO_SIZE, PHOTO_SIZE)
    else:
        target = next(iter(sizes)) if len(sizes) == 1 else (largest, largest)
    report = LoadReport(total=count, limit=listing.limit, notes=list(listing.notes))
    in_memory = count * channels * target[0] * target[1] <= _IN_MEMORY
    if max(target) <= SMALL and in_memory:
        images = _small_set(listing, (channels, *target), report, decode)
    else:
        images = _file_set(listing, target, channels, report, crop_share, decode)
        images.origin = of_items(items, list(sizes))
    report.check(name)
    if report.skipped:
        path, reason = report.skipped[0]
        log.warning("%s: %d unreadable images skipped, such as %s: %s", name, len(report.skipped), path, reason)
    counts = torch.bincount(images.labels, minlength=len(images.class_names)).tolist()
    if missing := [c for c, n in zip(images.class_names, counts, strict=True) if n == 0]:
        names = ", ".join(missing[:8]) + (f", ... ({len(missing)} in all)" if len(missing) > 8 else "")
        report.notes.append(f"no images of {len(missing)} classes in {listing.split!r}: {names}")
    return images


def _probe(items: Items) -> tuple[list[Header], UnreadableImage | None]:
    """The headers of some of the images, and what was wrong with the first that cannot be read."""
    headers, first = [], None
    for i in range(0, len(items), max(1, len(items) // _PROBED)):
        try:
            headers.append(items.header(i))
        except UnreadableImage as error:
            first = first or error
    return headers, first


def _small_set(listing: Listing, shape: tuple[int, int, int], report: LoadReport, decode: bool) -> ImageSet:
    """A TensorSet, without `decode` an Undecoded."""
    items, count = listing.items, len(listing.items)
    pixels = torch.empty((count if decode else 0, *shape), dtype=torch.uint8)

    def look(i: int, traits: list[str]) -> Header:
        if not decode:
            return items.header(i, traits)
        pixels[i], (channels, height, width) = small_image(items, i, shape, traits)
        return (height, width), channels

    rows, labels, paths, stored = _sound(listing, range(count), look, report)
    _count_changes(report, stored, shape[0], shape[1:])
    about = (listing.name, listing.split, report, paths)
    images: ImageSet
    if decode:
        images = TensorSet(pixels if len(rows) == count else pixels[rows], labels, listing.class_names, *about)
        images.source = (items.keys(rows), ENCODED) if items.keys_of == ENCODED else None
    else:
        images = Undecoded(items, rows, labels, listing.class_names, shape, *about)
    images.origin = of_items(items, [size for size, _ in stored])
    return images


def _file_set(
    listing: Listing, size: tuple[int, int], channels: int, report: LoadReport, crop_share: float, decode: bool
) -> FileSet:
    items, count = listing.items, len(listing.items)
    checked: Sequence[int] = range(count)
    if count > _CHECKED:
        checked = range(0, count, count // _SAMPLED)
        report.notes.append(f"{len(checked)} of {count} images were checked; the others are checked as they are read")

    rows, labels, paths, stored = _sound(listing, checked, items.check if decode else items.header, report)
    _count_changes(report, stored, channels)
    about = (listing.name, listing.split, report, paths, crop_share)
    images = FileSet(items, rows, labels, listing.class_names, channels, size, *about)
    images.checked = decode and len(checked) == count
    return images


def _sound(
    listing: Listing, checked: Sequence[int], look: Look, report: LoadReport
) -> tuple[torch.Tensor, torch.Tensor, Sequence[str] | None, Counter[Header]]:
    """(rows, labels, paths) without those of `checked` that cannot be read, and the headers of those that can."""
    sound = torch.ones(len(listing.items), dtype=torch.bool)
    stored: Counter[Header] = Counter()
    for i in checked:
        traits: list[str] = []
        try:
            stored[look(i, traits)] += 1
        except UnreadableImage as error:
            report.skip(error)
            sound[i] = False
        else:
            if traits:
                report.traits.add(traits, listing.items.name(i))
    rows = sound.nonzero().squeeze(1)
    labels = torch.as_tensor(listing.labels, dtype=torch.long)[rows]
    return rows, labels, listing.items.names(rows) if listing.has_paths else None, stored


def _count_changes(
    report: LoadReport, stored: Counter[Header], channels: int, size: tuple[int, ...] | None = None
) -> None:
    for (stored_size, stored_channels), count in stored.items():
        if stored_channels != channels and channels == 1:
            report.converted_colour += count
        elif stored_channels != channels:
            report.converted_grey += count
        if size is not None and stored_size != size:
            report.resized += count
