"""Paths in one piece of memory: a million of them as strings take three times the room, and each worker copies them."""

import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch


class Paths(Sequence[str]):
    """Paths, or other names, as one sequence of bytes with the place of each: 12 bytes a path beside its own.

    A part of it (`at`) shares the bytes. Names that are not UTF-8 are kept as the file system has them.
    """

    def __init__(self, text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> None:
        self._text, self._starts, self._lengths = text, starts, lengths

    @classmethod
    def of(cls, paths: Iterable[str]) -> "Paths":
        """These paths; as they are where they are Paths."""
        if isinstance(paths, Paths):
            return paths
        builder = PathsBuilder()
        builder.add("", paths)
        return builder.paths()

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Paths(self._text, self._starts[i], self._lengths[i])
        start = int(self._starts[i])
        return _decoded(self._text[start : start + int(self._lengths[i])].tobytes())

    def __iter__(self) -> Iterator[str]:
        for start, length in zip(self._starts.tolist(), self._lengths.tolist(), strict=True):
            yield _decoded(self._text[start : start + length].tobytes())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str | bytes):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        first = ", ".join(map(repr, self[:3]))
        return f"Paths([{first}{', ...' if len(self) > 3 else ''}], {len(self)} in all)"

    def at(self, index: torch.Tensor) -> "Paths":
        """The paths at `index`, long [M], in this order."""
        places = index.numpy()
        return Paths(self._text, self._starts[places], self._lengths[places])


class PathsBuilder:
    """Collects paths, a folder at a time."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._lengths: list[np.ndarray] = []

    def add(self, folder: str, names: Iterable[str]) -> int:
        """Add the files of a folder ("": the names are paths); gives how many."""
        before = os.path.join(folder, "") if folder else ""
        encoded = [(before + name).encode("utf-8", "surrogateescape") for name in names]
        self._pieces.append(b"".join(encoded))
        self._lengths.append(np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded)))
        return len(encoded)

    def paths(self) -> Paths:
        """All that were added, in order."""
        lengths = np.concatenate(self._lengths) if self._lengths else np.zeros(0, dtype=np.int32)
        ends = np.cumsum(lengths, dtype=np.int64)
        return Paths(np.frombuffer(b"".join(self._pieces), dtype=np.uint8), ends - lengths, lengths)


def _decoded(text: bytes) -> str:
    return text.decode("utf-8", "surrogateescape")
