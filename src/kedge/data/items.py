"""Where encoded images are: files, rows of a table, or another data set. Each is read one image at a time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from PIL import Image

from kedge.data.decode import DAMAGED, check, header, open_image, to_tensor
from kedge.data.fingerprints import key_of_bytes, key_of_file, key_of_pixels, keys_of_files
from kedge.data.formats import Encoded
from kedge.data.origin import of_encoded
from kedge.data.paths import Paths
from kedge.data.report import DataError, UnreadableImage

ENCODED = "encoded bytes"  # what keys are made from where images lie in files or tables


class Items(Protocol):
    """Images by position. Every reader raises UnreadableImage with the image's name.

    Attributes:
        keys_of: what the keys are made from.
    """

    keys_of: str

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """Return the path or another name of image i."""

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the names of the images at `index`, long [M]."""

    def header(self, i: int) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""

    def check(self, i: int) -> tuple[tuple[int, int], int]:
        """Return the same, of an image that was looked through for damage."""

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return (format, (height, width), JPEG quality or None) of image i."""

    def key(self, i: int) -> bytes:
        """Return a short key of what image i holds; equal images have equal keys. b"" if it cannot be read."""

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of the images at `index`, long [M]."""

    def small(self, i: int) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]."""

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i, decoded no smaller than `least` on its shorter side where it is larger."""


class OneByOne:
    """Names and keys of several images, of a source that gives them one by one."""

    def name(self, i: int) -> str:
        """Return the path or another name of image i."""
        raise NotImplementedError

    def key(self, i: int) -> bytes:
        """Return a short key of what image i holds; b"" if it cannot be read."""
        raise NotImplementedError

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the names of the images at `index`, long [M]."""
        return Paths.of(map(self.name, index.tolist()))

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of the images at `index`, long [M]."""
        return [self.key(i) for i in index.tolist()]


class EncodedItems(OneByOne):
    """Encoded images: files, or bytes."""

    keys_of = ENCODED

    def source(self, i: int) -> Encoded:
        """Return the path of image i, or its bytes."""
        raise NotImplementedError

    def header(self, i: int) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""
        return header(self.source(i), self.name(i))

    def check(self, i: int) -> tuple[tuple[int, int], int]:
        """Return the same, of an image that was looked through for damage."""
        return check(self.source(i), self.name(i))

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return (format, (height, width), JPEG quality or None) of image i."""
        return of_encoded(self.source(i), self.name(i))

    def key(self, i: int) -> bytes:
        """Return a key of the encoded bytes; b"" if they cannot be read."""
        try:
            source = self.source(i)
        except UnreadableImage:
            return b""
        return key_of_bytes(source) if isinstance(source, bytes) else key_of_file(str(source))

    def small(self, i: int) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]."""
        return to_tensor(open_image(self.source(i), self.name(i)))

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i, a JPEG decoded no smaller than `least`."""
        return open_image(self.source(i), self.name(i), least)


class FileItems(EncodedItems):
    """Image files by path."""

    def __init__(self, paths: Sequence[str]) -> None:
        self._paths = Paths.of(paths)

    def __len__(self) -> int:
        return len(self._paths)

    def name(self, i: int) -> str:
        """Return the file's path."""
        return self._paths[i]

    def names(self, index: torch.Tensor) -> Sequence[str]:
        """Return the files' paths."""
        return self._paths.at(index)

    def keys(self, index: torch.Tensor) -> list[bytes]:
        """Return the keys of the files' content, read by several threads."""
        return keys_of_files(self._paths.at(index))

    def source(self, i: int) -> Encoded:
        """Return the file's path."""
        return self._paths[i]


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

    def small(self, i: int) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]; its name is looked up only if it cannot be read."""
        try:
            return to_tensor(open_image(self.source(i)))
        except UnreadableImage as error:
            raise UnreadableImage(self.name(i), error.reason) from None


class DatasetItems(OneByOne):
    """The images of any map-style data set of (image, label), whose labels are compared with `labels` when read."""

    keys_of = "pixels as stored"

    def __init__(self, dataset: Any, origin: str, labels: Sequence[int]) -> None:
        self._dataset = dataset
        self._origin = origin
        self._labels = labels

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, i: int) -> str:
        """Return the set's name with the image's number."""
        return f"{self._origin}:{i}"

    def header(self, i: int) -> tuple[tuple[int, int], int]:
        """Return ((height, width), channels) of image i."""
        image = self.small(i)
        return (image.shape[1], image.shape[2]), image.shape[0]

    check = header  # which decodes it

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        """Return (format, (height, width), None) of image i; the format is "array" unless PIL remembers a file's."""
        image = self.image(i)
        if isinstance(image, Image.Image):
            return image.format or "array", (image.height, image.width), None
        return "array", (image.shape[1], image.shape[2]), None

    def key(self, i: int) -> bytes:
        """Return a key of the pixels of image i."""
        try:
            return key_of_pixels(self.small(i))
        except UnreadableImage:
            return b""

    def small(self, i: int) -> torch.Tensor:
        """Return image i as uint8 [C, H, W]."""
        return to_tensor(self.image(i))

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        """Return image i as the data set gives it: PIL, or uint8 [C, H, W]."""
        try:
            item = self._dataset[i]
        except DAMAGED as error:
            raise UnreadableImage(self.name(i), str(error) or type(error).__name__) from None
        image = item[0]
        if len(item) > 1 and item[1] != self._labels[i]:
            raise DataError(
                f"{self.name(i)}: the item has label {item[1]!r}, but {self._labels[i]} was taken for it (from the "
                "data set's targets or labels, or when it was read before): these must agree, and stay as they are"
            )
        return image if isinstance(image, Image.Image) else to_tensor(image)
