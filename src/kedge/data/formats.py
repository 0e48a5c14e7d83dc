"""Which kinds of images are read, by the names of files and by what is in them; and how one is opened."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from kedge.regular import open_file

Encoded = str | Path | bytes
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".jfif")
# What files of these names hold, and all that Pillow may open: it knows more kinds, and hands some, such as PostScript,
# to programs of the system, whatever the file is called. (What cameras write as MPO is opened as JPEG.)
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
# Files of images that people have and that are not read: they are counted and named, never dropped without a word.
UNREAD = (
    ".heic", ".heif", ".hif", ".avif", ".jxl", ".jp2", ".j2k", ".jpf", ".jpx", ".jxr", ".jpe", ".tga", ".psd", ".svg",
    ".exr", ".hdr", ".ico", ".apng", ".dib", ".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw",
    ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq", ".kdc", ".dcm",
)  # fmt: skip
CONVERT = "Convert them to JPEG or PNG to have them read"
# How files begin that hold something else under a name of ours: (place, bytes, what that is).
_OTHERS = (
    (0, b"%!PS", "PostScript"),
    (0, b"\xc5\xd0\xd3\xc6", "PostScript"),
    (0, b"%PDF", "a PDF"),
    (0, b"<svg", "SVG"),
    (0, b"<?xml", "XML"),
    (0, b"<!DOCTYPE", "a web page"),
    (0, b"<html", "a web page"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (0, b"\xff\x4f\xff\x51", "JPEG 2000"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (4, b"ftypavif", "AVIF"),
    (4, b"ftypavis", "AVIF"),
    (4, b"ftyphei", "HEIC"),
    (4, b"ftypmif1", "HEIC"),
)


def is_unread(name: str) -> bool:
    """Whether a file is called like an image of a kind that is not read."""
    return name.lower().endswith(UNREAD) and not name.startswith(".")


def encoded_bytes(source: Encoded) -> bytes:
    """The bytes of an encoded image, read where it is a path; raises as `opened` does."""
    if isinstance(source, bytes):
        return source
    with open_file(source) as file:
        return file.read()


@contextmanager
def opened(source: Encoded) -> Iterator[Image.Image]:
    """Open an encoded image of one of `FORMATS`, given as a path or as bytes, and close it afterwards.

    Raises:
        ValueError: what lies there is no file (a named pipe, a device, a folder), or an image of another kind.
        OSError: there is no such file, it cannot be read, or it holds no image (`UnidentifiedImageError`).
    """
    with io.BytesIO(source) if isinstance(source, bytes) else open_file(source) as file:
        try:
            image = Image.open(file, formats=FORMATS)
        except UnidentifiedImageError:
            file.seek(0)
            start = file.read(16)
            for at, sign, kind in _OTHERS:
                if start.startswith(sign, at):
                    raise ValueError(f"it holds {kind}, which is not read under any name. {CONVERT}") from None
            raise
        with image:
            yield image
