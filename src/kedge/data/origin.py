"""Where an image set's pixels come from: file formats, sizes, JPEG quality. A detector can exploit each of them."""

import functools
import io
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Protocol

import torch
from PIL import Image

from kedge.data.decode import upright_size
from kedge.data.formats import Encoded, encoded_bytes, opened
from kedge.data.report import UnreadableImage
from kedge.seeds import generator

_LOOKED_AT = 200
_LOSSY = ("JPEG", "WEBP lossy", "HEIF", "AVIF", "JPEG2000")  # the last three as they are used, though each can be exact


@dataclass(frozen=True)
class Origin:
    """What the images of a set were before they were decoded.

    Attributes:
        formats: how many of the images looked at are "JPEG", "PNG", "WEBP lossy", "WEBP lossless", ...; "array" for
            pixels that came without a file.
        sizes: ((smallest height, smallest width), (largest height, largest width)) before any resizing, or None.
        jpeg_quality: median over the JPEG files looked at, in libjpeg's 1 to 100, estimated from their quantisation
            tables; None where there is no JPEG file.
    """

    formats: dict[str, int]
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None
    jpeg_quality: int | None = None

    @property
    def lossy(self) -> float | None:
        """The share of files in a format that loses detail; None for arrays, whose past is not known."""
        files = sum(n for kind, n in self.formats.items() if kind != "array")
        return sum(self.formats.get(kind, 0) for kind in _LOSSY) / files if files else None

    def words(self) -> str:
        """For a person: "JPEG of quality 75, 32×32"."""
        total = sum(self.formats.values())
        kinds = []
        for kind, count in sorted(self.formats.items(), key=lambda pair: -pair[1]):
            share = "" if count == total else f"{count / total:.0%} "
            quality = f" of quality {self.jpeg_quality}" if kind == "JPEG" and self.jpeg_quality else ""
            kinds.append(f"{share}{kind}{quality}")
        if self.sizes is not None:
            (low, narrow), (high, wide) = self.sizes
            one = f"{low}×{narrow}"
            kinds.append(one if (low, narrow) == (high, wide) else f"{one} to {high}×{wide}")
        return ", ".join(kinds) or "of unknown origin"


class _Known(Protocol):
    def __len__(self) -> int: ...

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]: ...


def of_arrays(images: torch.Tensor) -> Origin:
    """The origin of images `[N, C, H, W]` that came without files."""
    size = (int(images.shape[2]), int(images.shape[3]))
    return Origin({"array": len(images)}, (size, size))


def of_items(items: _Known, sizes: Sequence[tuple[int, int]] = ()) -> Origin:
    """The origin of encoded images: of all up to 200 of them, else of a fixed random 200.

    `sizes` are further original sizes, (height, width), known from decoding.
    """
    count = len(items)
    rows = range(count) if count <= _LOOKED_AT else _sampled(count)
    formats: Counter[str] = Counter()
    stored = list(sizes)
    qualities = []
    for i in rows:
        try:
            kind, size, quality = items.origin(i)
        except UnreadableImage:
            continue
        formats[kind] += 1
        stored.append(size)
        if quality is not None:
            qualities.append(quality)
    heights, widths = [h for h, _ in stored], [w for _, w in stored]
    return Origin(
        dict(formats.most_common()),
        ((min(heights), min(widths)), (max(heights), max(widths))) if stored else None,
        round(median(qualities)) if qualities else None,
    )


def of_encoded(source: Encoded, name: str = "image") -> tuple[str, tuple[int, int], int | None]:
    """(format, (height, width), JPEG quality or None) of one encoded image; only its header is read.

    Raises:
        UnreadableImage: not an image.
    """
    try:
        with opened(source) as image:
            kind = image.format or "array"
            if kind == "WEBP":
                kind = f"WEBP {_webp_kind(source)}"
            elif kind == "MPO" or (kind == "TIFF" and "jpeg" in str(image.info.get("compression"))):
                kind = "JPEG"  # MPO: what some cameras write, a JPEG with a second one behind it
            tables = getattr(image, "quantization", None)
            return kind, upright_size(image), _quality(sum(tables[0])) if tables else None
    except Exception as error:  # a damaged file can raise nearly anything
        raise UnreadableImage(name if isinstance(source, bytes) else str(source), str(error)) from None


def of_each(images: Any) -> list[tuple[str, tuple[int, int], int | None] | None]:
    """(format, (height, width), JPEG quality or None) of each image of a set; None for one that came without a file.

    Only headers are read.
    """
    items, rows = getattr(images, "items", None), getattr(images, "rows", None)
    if items is not None and rows is not None:
        return [_or_none(items.origin, int(row)) for row in rows]
    paths = images.paths if getattr(images, "source", None) is not None else None
    if paths is None:
        return [None] * len(images)
    return [_or_none(of_encoded, str(path)) for path in paths]


def _or_none(read: Callable[[Any], Any], what: Any) -> Any:
    try:
        return read(what)
    except UnreadableImage:
        return None


def _sampled(count: int) -> list[int]:
    return torch.randperm(count, generator=generator(0, "origin"))[:_LOOKED_AT].sort().values.tolist()


def _webp_kind(source: Encoded) -> str:
    """RIFF holds chunks of (name, length, content); VP8L is the lossless one (RFC 9649)."""
    data, at = encoded_bytes(source), 12
    while at + 8 <= len(data):
        chunk = data[at : at + 4]
        if chunk in (b"VP8L", b"VP8 "):
            return "lossless" if chunk == b"VP8L" else "lossy"
        length = 16 if chunk == b"ANMF" else int.from_bytes(data[at + 4 : at + 8], "little")  # frames hold chunks
        at += 8 + length + length % 2
    return "lossy"


def _quality(total: int) -> int:
    return min(range(1, 101), key=lambda quality: abs(_table_sums()[quality - 1] - total))


@functools.cache
def _table_sums() -> tuple[int, ...]:
    """The sum of the luminance table that libjpeg uses for each quality 1 to 100; it falls with quality."""
    sums = []
    for quality in range(1, 101):
        file = io.BytesIO()
        Image.new("L", (8, 8)).save(file, "JPEG", quality=quality)
        with opened(file.getvalue()) as image:
            sums.append(sum(image.quantization[0]))  # type: ignore[attr-defined]
    return tuple(sums)
