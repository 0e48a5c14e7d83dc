"""Photos kept on disk as they were decoded, so that the next epoch, and the next run, need not decode them again."""

import logging
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from hashlib import blake2b
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import PIL
import torch
from PIL import Image

from kedge.data.file_sets import FileSet
from kedge.data.items import ENCODED, Items
from kedge.data.report import DataError
from kedge.data.sets import ImageSet
from kedge.files import sweep, temporary_beside

log = logging.getLogger(__name__)
DECODED = 1  # raised whenever the same file would be decoded to other pixels
GIGABYTES = 20.0
SPARE = 1 << 30  # bytes of the disk that are left free
_SUFFIX = ".pixels"
_HEADER = struct.Struct("<8sIIII")  # sign, width, height, channels, CRC-32 of the pixels
_SIGN = b"kedgepx1"
_MODES = {"L": 1, "RGB": 3}
_COUNTED = 64  # own entries after which those of other processes are counted again


def with_cache(images: ImageSet, folder: str | os.PathLike[str] | None, gigabytes: float = GIGABYTES) -> ImageSet:
    """The same images, of which each is decoded once and then read from `folder`; None leaves them as they are.

    What is read is bit for bit what decoding gives. Only photos that are read again and again are kept, those of a
    FileSet whose images lie encoded in files or tables; any other set comes back as it is.

    Raises:
        DataError: nothing can be written to the folder, or it lies in that of the images.
    """
    if folder is None or not isinstance(images, FileSet) or images.items.keys_of != ENCODED:
        return images
    if isinstance(images.items, CachedItems):  # the images of a fold are those of its run
        return images
    _check_apart(Path(folder).expanduser(), images.items.folder)
    cached = images.subset(range(len(images)))
    cached.items = CachedItems(images.items, PhotoCache(folder, gigabytes))
    return cached


class PhotoCache:
    """Decoded photos in a folder, each a file named by its content, the size that was asked for and who decoded it.

    A file is a header, a checksum and the pixels as they are. It is written under another name and then moved, so that
    any number of processes may share the folder. One that is damaged counts as missing and is written again. When
    the folder holds `gigabytes`, or 1 GiB of the disk is left, nothing more is kept.

    Args:
        folder: it is made where there is none.
        gigabytes: of 10^9 bytes; several processes may together keep some tens of photos more.

    Raises:
        DataError: nothing can be written there.
    """

    def __init__(self, folder: str | os.PathLike[str], gigabytes: float = GIGABYTES) -> None:
        self.folder, self.limit = Path(folder).expanduser(), int(gigabytes * 1e9)
        self._heif = _heif_version()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trial = temporary_beside(self.folder / "trial")
            trial.write_bytes(b"")
            trial.unlink()
        except OSError as error:
            raise DataError(
                f"cache {self.folder}: {error.strerror or error}. Name a folder that can be written"
            ) from None
        sweep(self.folder)
        self._taken, self._own, self._full = self.taken(), 0, False

    def taken(self) -> int:
        """Bytes of all photos in the folder."""
        total = 0
        for part in _listed(self.folder):
            for entry in _listed(part.path) if part.is_dir(follow_symlinks=False) else ():
                if entry.name.endswith(_SUFFIX):
                    try:
                        total += entry.stat(follow_symlinks=False).st_size
                    except OSError:  # another process is just replacing it
                        continue
        return total

    def read(self, key: bytes, least: int | None) -> Image.Image | None:
        """The photo whose encoded bytes have this key, decoded no smaller than `least`; None if it is not there."""
        try:
            data = self._path(key, least).read_bytes()
            sign, width, height, channels, checksum = _HEADER.unpack_from(data)
        except (OSError, struct.error):
            return None
        pixels = memoryview(data)[_HEADER.size :]
        mode = {channels: mode for mode, channels in _MODES.items()}.get(channels)
        sound = sign == _SIGN and mode is not None and len(pixels) == width * height * channels > 0
        if not sound or zlib.crc32(pixels) != checksum:
            return None
        assert mode is not None
        return Image.frombytes(mode, (width, height), data[_HEADER.size :], "raw", mode, 0, 1)

    def write(self, key: bytes, least: int | None, image: Image.Image) -> None:
        """Keep a photo of mode L or RGB, unless the folder or the disk is full."""
        if self._full:
            return
        pixels = image.tobytes()
        size = _HEADER.size + len(pixels)
        if self._own >= _COUNTED:
            self._taken, self._own = self.taken(), 0
        path = self._path(key, least)
        try:
            if self._taken + size > self.limit:
                return self._stop(f"it holds the {self.limit / 1e9:g} GB that it may")
            path.parent.mkdir(exist_ok=True)
            if _free(path.parent) < SPARE + size:
                return self._stop("its disk is nearly full")
            # Beside the folders of the photos, where what a dead process left is looked for.
            temporary = temporary_beside(self.folder / path.name)
            try:
                with temporary.open("wb") as file:
                    file.write(_HEADER.pack(_SIGN, *image.size, _MODES[image.mode], zlib.crc32(pixels)))
                    file.write(pixels)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            return self._stop(error.strerror or str(error))
        self._taken, self._own = self._taken + size, self._own + 1

    def _path(self, key: bytes, least: int | None) -> Path:
        who = f"{DECODED} Pillow {PIL.__version__}{self._heif} {least}".encode()
        name = blake2b(key, digest_size=16, key=blake2b(who, digest_size=32).digest()).hexdigest()
        return self.folder / name[:2] / f"{name}{_SUFFIX}"

    def _stop(self, why: str) -> None:
        self._full = True
        log.warning("cache %s: %s; further photos are decoded each time", self.folder, why)


class CachedItems(Items):
    """The images of `items`, each decoded where the cache does not have it."""

    def __init__(self, items: Items, cache: PhotoCache) -> None:
        self.items, self.cache = items, cache
        self.keys_of = items.keys_of
        self._digests: dict[int, bytes] = {}  # read once: a later epoch does not touch the source

    def __len__(self) -> int:
        return len(self.items)

    def name(self, i: int) -> str:
        """Return what the source calls it."""
        return self.items.name(i)

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return what the source calls them."""
        return self.items.names(index)

    def header(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return what the source says."""
        return self.items.header(i, traits)

    def check(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return what the source says."""
        return self.items.check(i, traits)

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return what the source says."""
        return self.items.origin(i)

    def key(self, i: int) -> bytes:
        """Return the key of what the source holds now."""
        return self.items.key(i)

    def digest(self, i: int) -> bytes:
        """Return the key of all that the source holds now."""
        return self.items.digest(i)

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of what the source holds now."""
        return self.items.keys(index)

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i, from the cache or decoded and kept."""
        key = self._digests.get(i)
        if key is None:
            key = self._digests[i] = self.items.digest(i)
        if key and (kept := self.cache.read(key, least)) is not None:
            return kept
        image = self.items.image(i, least)
        if key and isinstance(image, Image.Image):
            self.cache.write(key, least, image)
        return image


def _check_apart(cache: Path, data: Path | None) -> None:
    """Raise DataError for a cache in the data folder: its folders would be classes when the data is next loaded."""
    if data is not None and cache.resolve().is_relative_to(data.resolve()):
        raise DataError(
            f"cache {cache} lies in the data folder {data}: its folders may be taken for classes there. Name a folder "
            "outside of it"
        )


def _heif_version() -> str:
    """What decodes HEIC beside Pillow, where it is installed: another version may give other pixels of a file."""
    return f" pillow-heif {version('pillow-heif')}" if find_spec("pillow_heif") is not None else ""


def _listed(folder: str | os.PathLike[str]) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []


def _free(folder: Path) -> int:
    """Bytes that can still be written to the folder's disk."""
    return shutil.disk_usage(folder).free
