"""From an encoded image to a uint8 tensor [C, H, W], C = 1 (grey) or 3 (RGB)."""

import io
import re
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image, ImageOps

from kedge.data.boxes import end_of_boxes, sound_boxes
from kedge.data.formats import Encoded, encoded_bytes, opened
from kedge.data.report import UnreadableImage
from kedge.data.traits import traits_of
from kedge.regular import open_file

Size = int | tuple[int, int]  # of images in pixels: the side of a square, or (height, width)

# What PIL raises for damaged files, as far as it cannot mean anything else.
DAMAGED = (OSError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)
SMALL = 64  # largest side, in pixels, of the sets that are decoded once and kept in memory
WHOLE = 192  # pixels of a side below which the evaluation view keeps all of the shorter side
OBLONG = 20  # times as long as wide: of what is longer the ends, which no view shows, are cut off first
CROP_SHARE = 0.875  # of the shorter side that the evaluation view of a larger image keeps (ImageNet practice)

_GREY_MODES = {"1", "L", "LA", "La", "I", "F", "I;16", "I;16B", "I;16L", "I;16N"}
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # what ends the compressed data of a JPEG's scan


def read_image(
    source: Encoded, image_size: Size | None = None, channels: int | None = None, traits: list[str] | None = None
) -> torch.Tensor:
    """Decode one image as the sets do: uint8 [C, H, W], of its own size or in the evaluation view.

    Args:
        source: a path, or the bytes of an encoded image.
        image_size: of the evaluation view in pixels, a side or (height, width); None keeps the image's own size.
        channels: 1 or 3 to force grey or RGB; None keeps the image's own.
        traits: as of `open_image`.

    Raises:
        UnreadableImage: not an image, damaged, or not there.
    """
    image = open_image(source, least=least_side(image_size), traits=traits)
    return to_tensor(image if image_size is None else evaluation_view(image, image_size), channels)


def sides(size: Size) -> tuple[int, int]:
    """(height, width) of images of a size."""
    return (size, size) if isinstance(size, int) else size


def least_side(image_size: Size | None) -> int | None:
    """The shorter side that an image may be decoded down to for a view of `image_size` pixels; None: it stays whole.

    Sets of up to 64 pixels are decoded whole. Where a side is no multiple of the factor a reduced image is another one:
    of sharp PNGs of 400×600 pixels a view of 64 was apart by 14 of 256 levels on average.
    """
    largest = 0 if image_size is None else max(sides(image_size))
    return None if largest <= SMALL else 2 * largest


def header(source: Encoded, name: str = "image", traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
    """Read only an image's header: ((height, width), channels), the rotation of its EXIF tag applied.

    A list `traits` is extended by those of the file (`kedge.data.traits`).

    Raises:
        UnreadableImage: not an image, of a kind that is not read, or a JPEG or PNG whose end is missing.
    """
    with _named(source, name), opened(source) as image:
        described = _described(image, traits)
        if _end_is_missing(source, image.format):
            image.load()  # some cameras append data behind a whole image: only decoding tells
        return described


def check(source: Encoded, name: str = "image", traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
    """Read an image's header, as `header`, and look through the file for what decoding it would stumble over.

    A JPEG's markers and a PNG's checksums tell in a tenth of the time that decoding takes; where they are not in order,
    and for formats that have neither, decoding does.

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    with _named(source, name):
        data = encoded_bytes(source)
        with opened(data) as image:
            described = _described(image, traits)
            sound = _SOUND.get(image.format or "")
            if sound is None or not sound(data):
                image.load()
            return described


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image, the rotation of its EXIF tag applied."""
    width, height = image.size
    # TIFF is opened upright; of HEIC what turns it is no EXIF tag, and its library has applied that
    if "exif" in image.info and image.format != "TIFF" and image.getexif().get(0x0112, 1) in (5, 6, 7, 8):
        width, height = height, width
    return height, width


def open_image(
    source: Encoded, name: str = "image", least: int | None = None, traits: list[str] | None = None
) -> Image.Image:
    """Decode to a PIL image of mode L or RGB, upright as its EXIF tag says.

    Args:
        source: a path, or the bytes of an encoded image.
        name: what an error calls an image that has no path.
        least: the shorter side that is needed; a JPEG may then be decoded at 1/2, 1/4 or 1/8 of its size, never
            smaller than this, which is several times faster for photographs; of other formats, which are decoded
            whole, each square of 2, 3, ... 8 pixels of a side becomes one, as all that follows then has less to do.
        traits: a list that is extended by those of the file (`kedge.data.traits`).

    Raises:
        UnreadableImage: not an image, damaged, or not there.
    """
    with _named(source, name), opened(source) as image:
        if least is not None and image.format == "JPEG":
            image.draft(None, (least, least))
        if traits is not None:
            traits += traits_of(image)
        image.load()
        # looked at only where there is one: it costs as much as decoding a small image
        upright = ImageOps.exif_transpose(image) if "exif" in image.info or image.format == "TIFF" else image
        plain = _plain_mode(upright)
        factor = 1 if least is None or image.format == "JPEG" else min(8, min(plain.size) // least)
        return plain.reduce(factor) if factor > 1 else plain


def to_tensor(image: Image.Image | torch.Tensor | np.ndarray, channels: int | None = None) -> torch.Tensor:
    """Turn a PIL image, an array [H, W] or [H, W, C] or a tensor [C, H, W] into uint8 [C, H, W].

    Floats are taken as [0, 1] and rounded to the nearest of 256 levels. `channels` 1 or 3 converts.
    """
    if isinstance(image, Image.Image):
        image = np.array(_plain_mode(image))
    if isinstance(image, np.ndarray):
        image = image[:, :, None] if image.ndim == 2 else image
        image = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).contiguous()
    if image.ndim == 2:
        image = image[None]
    if image.is_floating_point():
        low, high = float(image.min()), float(image.max())
        if not (low >= 0.0 and high <= 1.0):  # NaN too
            raise ValueError(
                f"float images must lie in [0, 1], got [{low:.3g}, {high:.3g}]: leave out the normalisation "
                "(the model normalises), or hand over uint8"
            )
        image = (image * 255).round().to(torch.uint8)
    elif image.dtype != torch.uint8:
        raise TypeError(f"images must be uint8 or float in [0, 1], got {image.dtype}")
    return image if channels is None else convert_channels(image, channels)


def convert_channels(image: torch.Tensor, channels: int) -> torch.Tensor:
    """Turn uint8 [..., 1, H, W] to 3 channels by repetition, or [..., 3, H, W] to 1 by luma (ITU-R 601)."""
    have = image.shape[-3]
    if have == channels:
        return image
    if have == 1:
        return image.expand(*image.shape[:-3], channels, *image.shape[-2:]).contiguous()
    if have == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
        return (image.float() * weights).sum(-3, keepdim=True).round().to(torch.uint8)
    raise ValueError(f"cannot turn {have} channels into {channels}")


def evaluation_view(
    image: Image.Image | torch.Tensor, size: Size, crop_share: float = CROP_SHARE
) -> Image.Image | torch.Tensor:
    """Resize the shorter side (antialiased, bilinear) and crop the centre to `size`, a side or (height, width).

    From 192 px the shorter side becomes size / 0.875, as is usual for photographs; below it becomes `size`, so that
    nothing but the ends of the longer side is lost: at 128 px linear probes of photos were up to 8 points better so,
    and fine-tuned networks as good (docs/decisions/photos.md). `crop_share` 1 keeps that of larger ones too, for images
    that were cropped already. A view that is no square is just covered, and an image of its size stays as it is.
    """
    from torchvision.transforms.v2 import functional as v2

    height, width = v2.get_size(image)
    tall, wide = sides(size)
    if tall != wide and (height, width) == (tall, wide):
        return image
    if max(height, width) > OBLONG * min(height, width):  # enlarged as a whole, a line of pixels would fill the memory
        most = OBLONG * min(height, width)
        height, width = min(height, most), min(width, most)
        image = v2.center_crop(image, [height, width])
    if tall == wide:
        covering = [shorter_side(tall, crop_share)]
    else:
        scale = max(tall / height, wide / width)
        covering = [max(tall, round(height * scale)), max(wide, round(width * scale))]
    return v2.center_crop(v2.resize(image, covering, antialias=True), [tall, wide])


def shorter_side(size: int, crop_share: float = CROP_SHARE) -> int:
    """What the evaluation view of `size` pixels resizes the shorter side of an image to, before it crops the centre."""
    return size if size < WHOLE else round(size / crop_share)


def _described(image: Image.Image, traits: list[str] | None) -> tuple[tuple[int, int], int]:
    """((height, width), channels) of an opened image; ValueError for one of a kind that is not read."""
    _check_mode(image)
    if traits is not None:
        traits += traits_of(image)
    return upright_size(image), 1 if image.mode in _GREY_MODES else 3


def _plain_mode(image: Image.Image) -> Image.Image:
    if image.mode in ("L", "RGB"):
        image.load()
        return image
    if image.mode.startswith("I;16") or _is_deep_pnm(image):  # PIL's own conversion would clip every value above 255
        return Image.fromarray((np.asarray(image).astype(np.float32) / 257).round().astype(np.uint8))
    _check_mode(image)
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns of the direct way, and gives the same
        image = image.convert("RGBA")
    return image.convert("L" if image.mode in _GREY_MODES else "RGB")


def _check_mode(image: Image.Image) -> None:
    if image.mode in ("I", "F") and not _is_deep_pnm(image):
        raise ValueError("32-bit image of unknown range: convert it to 8 bits")


def _is_deep_pnm(image: Image.Image) -> bool:
    """Whether it is grey PNM of more than 8 bits: Pillow stretches what its header says is white to 65535."""
    return image.mode == "I" and image.format == "PPM"


def _sound_jpeg(data: bytes) -> bool:
    """Whether a JPEG's segments follow one another to its end: damage within compressed data stops no decoder."""
    at, scanned, progressive = 2, False, False
    while True:
        while data[at : at + 2] == b"\xff\xff":  # fill bytes
            at += 1
        if at + 4 > len(data) or data[at] != 0xFF:
            return data[at : at + 2] == b"\xff\xd9"
        kind = data[at + 1]
        if kind == 0xD9:
            return scanned
        # Further scans, and their tables, are a progressive JPEG's; in any other they are seldom meant.
        allowed = (
            (0xC4, 0xDA, 0xDD) if scanned else (0xC0, 0xC1, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0))
        )
        if kind not in allowed or (scanned and not progressive):
            return False
        progressive = progressive or kind == 0xC2
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if kind == 0xDA:
            end = _MARKER.search(data, at)
            if end is None:
                return False
            at, scanned = end.start(), True


def _sound_png(data: bytes) -> bool:
    """Whether a PNG's chunks follow one another to its end with the right checksums."""
    at = 8
    while at + 12 <= len(data):
        end = at + 8 + int.from_bytes(data[at : at + 4])
        if zlib.crc32(memoryview(data)[at + 4 : end]) != int.from_bytes(data[end : end + 4]):
            return False
        if data[at + 4 : at + 8] == b"IEND":
            return True
        at = end + 4
    return False


_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}
_SOUND = {"JPEG": _sound_jpeg, "MPO": _sound_jpeg, "PNG": _sound_png, "HEIF": sound_boxes, "AVIF": sound_boxes}


def _end_is_missing(source: Encoded, kind: str | None) -> bool:
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as file:
        size = file.seek(0, 2)
        if kind in ("HEIF", "AVIF"):
            return end_of_boxes(file, size) != size  # what is appended behind boxes is seldom boxes
        file.seek(max(0, size - 64))
        return _ENDS.get(kind or "", b"") not in file.read()


@contextmanager
def _named(source: Encoded, name: str) -> Iterator[None]:
    """Turn what is raised into UnreadableImage with the image's path or name; damage raises nearly anything."""
    try:
        yield
    except Exception as error:
        path = name if isinstance(source, bytes) else str(source)
        raise UnreadableImage(path, _reason(error, source)) from None


def _reason(error: Exception, source: Encoded) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image, or empty"
    reason = str(error) or type(error).__name__
    return reason if isinstance(source, bytes) else reason.removeprefix(f"{source} is ")
