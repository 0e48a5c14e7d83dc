"""Where images are: files, rows of a table, arrays, or another data set. Each is read one image at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from kedge.data.decode import check, header, open_image, to_tensor
from kedge.data.fingerprints import digest_of, key_of, key_of_pixels, keys_of_files
from kedge.data.formats import Encoded
from kedge.data.origin import of_encoded
from kedge.data.paths import Paths
from kedge.data.report import UnreadableImage

ENCODED = "encoded bytes"  # what keys are made from where images lie in files or tables


class Items:
    """Images by position. Every reader raises UnreadableImage with the image's name.

    A list `traits` is extended by those of the file that an image lies in (`kedge.data.traits`).

    Attributes:
        keys_of: what the keys are made from.
        folder: the data folder, all of which is looked through for image files; None without one.
    """

    keys_of: str
    folder: Path | None = None

    def __len__(self) -> int:
        raise NotImplementedError

    def name(self, i: int) -> str:
        """Return the path or another name of image i."""
        raise NotImplementedError

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the names of the images at `index`, long [M]."""
        return Paths.of(map(self.name, index.tolist()))

    def header(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""
        raise NotImplementedError

    def check(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return the same, of an image that was looked through for damage."""
        raise NotImplementedError

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return (format, (height, width), JPEG quality or None) of image i."""
        raise NotImplementedError

    def key(self, i: int) -> bytes:
        """Return a short key of what image i holds; equal images have equal keys. b"" if it cannot be read."""
        raise NotImplementedError

    def digest(self, i: int) -> bytes:
        """Return a key of all that image i holds, where `key` may be of a part of it."""
        return self.key(i)

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of the images at `index`, long [M]."""
        return [self.key(i) for i in index.tolist()]

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i; a JPEG may be decoded smaller, with no less than `least` on its shorter side."""
        raise NotImplementedError

    def small(self, i: int, traits: list[str] | None = None) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]."""
        return to_tensor(self.image(i))


class EncodedItems(Items):
    """Encoded images: files, or bytes."""

    keys_of = ENCODED

    def source(self, i: int) -> Encoded:
        """Return the path of image i, or its bytes."""
        raise NotImplementedError

    def header(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""
        return header(self.source(i), self.name(i), traits)

    def check(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return the same, of an image that was looked through for damage."""
        return check(self.source(i), self.name(i), traits)

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return (format, (height, width), JPEG quality or None) of image i."""
        return of_encoded(self.source(i), self.name(i))

    def key(self, i: int) -> bytes:
        """Return a key of the encoded bytes; b"" if they cannot be read."""
        try:
            return key_of(self.source(i))
        except UnreadableImage:
            return b""

    def digest(self, i: int) -> bytes:
        """Return a key of all of the encoded bytes; b"" if they cannot be read."""
        try:
            return digest_of(self.source(i))
        except UnreadableImage:
            return b""

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i, a JPEG decoded no smaller than `least`."""
        return open_image(self.source(i), self.name(i), least)

    def small(self, i: int, traits: list[str] | None = None) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]."""
        return to_tensor(open_image(self.source(i), self.name(i), traits=traits))


class FileItems(EncodedItems):
    """Image files by path, which were listed in `folder`."""

    def __init__(self, paths: Sequence[str], folder: Path | None = None) -> None:
        self._paths = Paths.of(paths)
        self.folder = folder

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, i: int) -> str:
        """Return the file's path."""
        return self._paths[i]

    source = name

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the files' paths."""
        return self._paths.at(index)

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of the files' content, read by several threads."""
        return keys_of_files(self._paths.at(index))


def below(folder: Path, path: str) -> str:
    """The place of the file that a row of a file in `folder` names; UnreadableImage if it is not below the folder."""
    place = (folder / path).resolve()
    if not place.is_relative_to(folder.resolve()):
        raise UnreadableImage(path, f"the row holds no image but names a file that is not below {folder}")
    return str(place)


class RowItems(EncodedItems):
    """Rows of {"bytes": ..., "path": ...}, from a pyarrow column or a column of a Hugging Face data set.

    With `folder`, a path without bytes is one below it: a stranger's file names no other image of this machine.
    """

    def __init__(self, rows: Any, origin: str, folder: Path | None = None) -> None:
        self._rows = rows
        self._origin = origin
        self._folder = folder

    def __len__(self) -> int:
        return len(self._rows)

    def _row(self, i: int) -> dict[str, Any]:
        row = self._rows[i]
        row = row.as_py() if hasattr(row, "as_py") else row
        return {"bytes": row} if isinstance(row, bytes) else row if isinstance(row, dict) else {}

    def name(self, i: int) -> str:
        """Return the set's name with the row's path, or with its number where it has none."""
        return f"{self._origin}:{self._row(i).get('path') or f'row {i}'}"

    def source(self, i: int) -> Encoded:
        """Return the row's bytes, or the path it refers to."""
        row = self._row(i)
        data, path = row.get("bytes"), row.get("path")
        if isinstance(data, bytes) and data:
            return data
        if isinstance(path, str) and path:
            return path if self._folder is None else below(self._folder, path)
        raise UnreadableImage(self.name(i), "the row holds no image")

    def small(self, i: int, traits: list[str] | None = None) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]; its name is looked up only if it cannot be read."""
        try:
            return to_tensor(open_image(self.source(i), traits=traits))
        except UnreadableImage as error:
            raise UnreadableImage(self.name(i), error.reason) from None


class PixelItems(Items):
    """Images that are not encoded, or not to our knowledge: reading one is all that tells of it."""

    keys_of = "pixels as stored"

    def header(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""
        channels, height, width = self.small(i).shape
        return (height, width), channels

    def check(self, i: int, traits: list[str] | None = None) -> tuple[tuple[int, int], int]:
        """Return the same."""
        return self.header(i)

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return ("array", (height, width), None)."""
        return "array", self.header(i)[0], None

    def key(self, i: int) -> bytes:
        """Return a key of the pixels of image i; b"" if it cannot be read."""
        try:
            return key_of_pixels(self.small(i))
        except UnreadableImage:
            return b""
