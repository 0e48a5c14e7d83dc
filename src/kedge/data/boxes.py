"""Files of boxes, as HEIC and AVIF are (ISO/IEC 14496-12): whether they are there to their end."""

from typing import BinaryIO

__all__ = ["end_of_boxes", "sound_boxes"]

_NEEDED = {b"ftyp", b"meta", b"mdat"}


def sound_boxes(data: bytes) -> bool:
    """Whether boxes follow one another to the end of a file: damage within compressed data is seen in decoding only."""
    at, seen = 0, set()
    while at + 8 <= len(data):
        length = _length(data[at : at + 16], len(data) - at)
        seen.add(data[at + 4 : at + 8])
        if not 8 <= length <= len(data) - at:
            return False
        at += length
    return at == len(data) and seen >= _NEEDED


def end_of_boxes(file: BinaryIO, size: int) -> int:
    """Where the last box of a file of `size` bytes ends by what the boxes say, which may be beyond its end."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length = _length(file.read(16), size - at)
        if length < 8:
            break
        at += length
    return at


def _length(start: bytes, rest: int) -> int:
    """Of the box that begins so, in bytes; 0 stands for all of the rest, 1 for a length of 64 bits."""
    length = int.from_bytes(start[:4])
    return rest if length == 0 else int.from_bytes(start[8:16]) if length == 1 else length
