"""Which kinds of images are read, by the names of files and by what is in them; and how one is opened."""

import io
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from PIL import Image, UnidentifiedImageError, features

from kedge.regular import open_file

Encoded = str | Path | bytes
_START = 64  # bytes at the beginning of a file that say what it holds


@cache
def _register_heif() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()


@dataclass(frozen=True)
class Plugin:
    """A kind of image that is read where what decodes it is installed.

    Attributes:
        name: what people call it.
        format: what Pillow calls it.
        suffixes: of its files.
        install: how to have it read.
        present: whether that was done.
        prepare: to be called before Pillow opens one.
    """

    name: str
    format: str
    suffixes: tuple[str, ...]
    install: str
    present: bool
    prepare: Callable[[], None] = lambda: None

    @property
    def advice(self) -> str:
        """What to do to have it read."""
        return f"{self.name} is read after {self.install}"


# Pillow's own wheels decode AVIF and JPEG 2000; one built from source may not. HEIC has a package of its own.
_NEW_PILLOW = "pip install --upgrade --force-reinstall pillow"
PLUGINS = (
    Plugin("HEIC", "HEIF", (".heic", ".heif", ".hif", ".heics", ".heifs"), "pip install pillow-heif",
           find_spec("pillow_heif") is not None, _register_heif),
    Plugin("AVIF", "AVIF", (".avif", ".avifs"), _NEW_PILLOW, bool(features.check("avif"))),
    Plugin("JPEG 2000", "JPEG2000", (".jp2", ".j2k", ".j2c", ".jpf", ".jpx", ".jpc"), _NEW_PILLOW,
           bool(features.check("jpg_2000"))),
)  # fmt: skip
_PRESENT = tuple(plugin for plugin in PLUGINS if plugin.present)
_LACKING = tuple(plugin for plugin in PLUGINS if not plugin.present)
EXTENSIONS = (
    ".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".jfif", ".jpe",
    ".mpo", ".apng", *(suffix for plugin in _PRESENT for suffix in plugin.suffixes),
)  # fmt: skip
# What files of these names hold, and all that Pillow may open: it knows more kinds, and hands some, such as PostScript,
# to programs of the system, whatever the file is called. (What cameras write as MPO is opened as JPEG.)
_ALWAYS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
FORMATS = (*_ALWAYS, *(plugin.format for plugin in _PRESENT))
# Files of images that people have and that are not read: they are counted and named, never dropped without a word.
UNREAD = (
    ".jxl", ".jxr", ".tga", ".psd", ".xcf", ".svg", ".exr", ".hdr", ".ico", ".dib", ".raw", ".dng", ".cr2", ".cr3",
    ".crw", ".nef", ".nrw", ".arw", ".srf", ".sr2", ".orf", ".rw2", ".raf", ".pef", ".srw", ".x3f", ".3fr", ".iiq",
    ".kdc", ".dcr", ".erf", ".mef", ".mos", ".mrw", ".rwl", ".gpr", ".dcm",
    *(suffix for plugin in _LACKING for suffix in plugin.suffixes),
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
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"),
    (0, b"\xff\x0a", "JPEG XL"),
)
_JPEG_2000 = (b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51")
_AVIF = {b"avif", b"avis"}
_HEIC = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}


def is_unread(name: str) -> bool:
    """Whether a file is called like an image of a kind that is not read."""
    return name.lower().endswith(UNREAD) and not name.startswith(".")


def advice(suffixes: Collection[str]) -> str:
    """What to do about files of kinds that are not read: what to install where that helps, else to convert them."""
    install = [plugin.advice for plugin in _LACKING if not set(plugin.suffixes).isdisjoint(suffixes)]
    known = {suffix for plugin in _LACKING for suffix in plugin.suffixes}
    return ". ".join([*install, *([] if install and known.issuperset(suffixes) else [CONVERT])])


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
        start = file.read(_START)
        file.seek(0)
        plugin = _plugin(start)
        try:
            image = Image.open(file, formats=_ALWAYS if plugin is None else [_ready(plugin)])
        except UnidentifiedImageError:
            for at, sign, kind in _OTHERS:
                if start.startswith(sign, at):
                    raise ValueError(f"it holds {kind}, which is not read under any name. {CONVERT}") from None
            raise
        with image:
            yield image


def _plugin(start: bytes) -> Plugin | None:
    """The kind of `PLUGINS` that the first bytes of a file announce."""
    heic, avif, jpeg_2000 = PLUGINS
    if start.startswith(_JPEG_2000):
        return jpeg_2000
    if start[4:8] != b"ftyp":
        return None
    # ISO/IEC 14496-12, 4.3: the major brand, a version, and all brands that the file is compatible with.
    length = min(int.from_bytes(start[:4]), len(start))
    brands = {start[8:12], *(start[at : at + 4] for at in range(16, length, 4))}
    return avif if brands & _AVIF else heic if brands & _HEIC else None


def _ready(plugin: Plugin) -> str:
    """Pillow's name of a kind, once Pillow can open it; ValueError with what to install if it cannot."""
    if not plugin.present:
        raise ValueError(f"it holds {plugin.name}. {plugin.advice}")
    plugin.prepare()
    return plugin.format
