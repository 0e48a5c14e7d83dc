"""Keys of images by what is in them: equal images have equal keys, whatever they are called."""

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch

from kedge.data.formats import Encoded, encoded_bytes
from kedge.regular import open_file

_WHOLE = 1 << 15  # bytes: longer encoded images are told by their length and three pieces
_PIECE = 1 << 13
# How files begin that may hold pixels as they are (BMP, TIFF, PNM): two that differ in one place are of the same length
# and the same in all others, where compressed ones differ from that place on. They are read whole.
_RAW = (b"BM", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"P4", b"P5", b"P6", b"P7")
_TOGETHER, _THREADS = 512, 8  # files whose keys a thread makes in one go, and threads
_ALL = 50_000  # encoded images; of more, a fixed part of them is read


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


def key_of(source: Encoded) -> bytes:
    """A 16-byte key of an encoded image, by its path or its bytes; b"" if it cannot be read."""
    return key_of_bytes(source) if isinstance(source, bytes) else key_of_file(str(source))


def digest_of(source: Encoded) -> bytes:
    """A 16-byte key of all of an encoded image, by its path or its bytes; b"" if it cannot be read."""
    try:
        return hashlib.blake2b(encoded_bytes(source), digest_size=16).digest()
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


def sampled_rows(count: int) -> range:
    """All positions of up to 50,000 images; evenly spread ones of more, at least 25,000."""
    return range(0, count, -(-count // _ALL)) if count > _ALL else range(count)


def _key_of_pieces(length: int, *pieces: bytes) -> bytes:
    hashed = hashlib.blake2b(str(length).encode(), digest_size=16)
    for piece in pieces:
        hashed.update(piece)
    return hashed.digest()
