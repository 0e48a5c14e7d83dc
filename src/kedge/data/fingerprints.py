"""Telling image sets by what is in them: one digest of a set, one key for each image, how many two sets share."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import torch

from kedge.data.report import DataError
from kedge.regular import open_file

if TYPE_CHECKING:
    from kedge.data.sets import ImageSet

_WHOLE = 1 << 15  # bytes: longer encoded images are told by their length and three pieces
_PIECE = 1 << 13
# How files begin that may hold pixels as they are (BMP, TIFF, PNM): two that differ in one place are of the same length
# and the same in all others, where compressed ones differ from that place on. They are read whole.
_RAW = (b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P4", b"P5", b"P6", b"P7")
_TOGETHER, _THREADS = 512, 8  # files whose keys a thread makes in one go, and threads
_ALL = 50_000  # encoded images; of more, a fixed part of them is read
_SHARED = 0.01  # of an out-of-distribution set that may also be in the test set without a word


def key_of_bytes(data: bytes) -> bytes:
    """A 16-byte key of an encoded image held in memory."""
    if len(data) <= _WHOLE or data.startswith(_RAW):
        return hashlib.blake2b(data, digest_size=16).digest()
    middle = len(data) // 2
    return _key_of_pieces(len(data), data[:_PIECE], data[middle : middle + _PIECE], data[-_PIECE:])


def key_of_file(path: str) -> bytes:
    """A 16-byte key of a file's content, the same as `key_of_bytes` of it; b"" if it cannot be read."""
    try:
        with open_file(path) as file:
            length = os.fstat(file.fileno()).st_size
            start = file.read(_PIECE if length > _WHOLE else length + 1)
            if length <= _WHOLE or start.startswith(_RAW):
                return hashlib.blake2b(start + file.read(), digest_size=16).digest()
            pieces = [start]
            for at in (length // 2, length - _PIECE):
                file.seek(at)
                pieces.append(file.read(_PIECE))
            return _key_of_pieces(length, *pieces)
    except (OSError, ValueError):
        return b""


def keys_of_files(paths: Sequence[str]) -> list[bytes]:
    """`key_of_file` of each, in order, by several threads: they wait for the disk together."""
    if len(paths) < 2 * _TOGETHER:
        return [key_of_file(path) for path in paths]
    parts = [paths[start : start + _TOGETHER] for start in range(0, len(paths), _TOGETHER)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [key for keys in pool.map(lambda part: [key_of_file(path) for path in part], parts) for key in keys]


def key_of_pixels(image: torch.Tensor) -> bytes:
    """A 16-byte key of a uint8 tensor: its values, not its shape."""
    return hashlib.blake2b(image.contiguous().numpy().tobytes(), digest_size=16).digest()


def digest(images: "ImageSet", keys: list[bytes]) -> str:
    """sha256 of the keys with the labels, the class names and the image shape, as 64 hex digits."""
    made = hashlib.sha256(repr((tuple(images.image_shape), len(images), images.class_names)).encode())
    made.update(images.labels.numpy().tobytes())
    for key in keys:
        made.update(key)
    return made.hexdigest()


def sampled_rows(count: int) -> range:
    """All positions of up to 50,000 images; evenly spread ones of more, at least 25,000."""
    return range(0, count, -(-count // _ALL)) if count > _ALL else range(count)


def shared_images(first: "ImageSet", second: "ImageSet") -> int:
    """How many images of `second` are also in `first`, bit for bit.

    Images in memory are compared by their pixels, those on disk and those not decoded yet by their encoded bytes (long
    ones by length and three pieces). A set in memory and one on disk, or in memory in different shapes, cannot be
    compared: 0.
    """
    if type(first) is not type(second):
        # Of a set in memory and one that is not decoded yet the pixels are compared.
        whole = [images.decoded() if hasattr(images, "decoded") else images for images in (first, second)]
        if type(whole[0]) is not type(whole[1]):
            return 0
        first, second = whole
    if first.image_shape != second.image_shape and not hasattr(first, "items"):
        return 0
    keys = [each.pixel_keys() if hasattr(each, "pixel_keys") else each.keys() for each in (first, second)]
    known = set(keys[0])
    known.discard(b"")
    return sum(key in known for key in keys[1])


def check_apart(inside: "ImageSet", outside: "ImageSet") -> str | None:
    """Check that out-of-distribution images are not the test images.

    Returns:
        None, or a warning in words where more than 1 % of `outside` is among `inside`.

    Raises:
        DataError: every image of `outside` is an image of `inside`, whatever the sets are called.
    """
    if len(outside) == 0:
        raise DataError(f"the out-of-distribution set {outside.name!r} is empty")
    shared = len(outside) if outside is inside else shared_images(inside, outside)
    if shared == len(outside):
        what = "the test set itself" if len(outside) == len(inside) else f"part of the test set {inside.name!r}"
        raise DataError(
            f"the out-of-distribution set {outside.name!r} is {what}: all of its {len(outside)} images are test "
            "images. Name data that shows other things"
        )
    if shared > _SHARED * len(outside):
        return f"{shared} of {len(outside)} images of {outside.name!r} are also test images: its numbers mean little"
    return None


def _key_of_pieces(length: int, *pieces: bytes) -> bytes:
    made = hashlib.blake2b(str(length).encode(), digest_size=16)
    for piece in pieces:
        made.update(piece)
    return made.digest()
