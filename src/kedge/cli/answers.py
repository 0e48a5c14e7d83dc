"""How answers are written: as a table, CSV, JSON, JSON lines or parquet, each as it comes, none held in memory."""

import csv
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from kedge.printable import is_computed, printable

__all__ = ["FIELDS", "KINDS", "Tally", "encodable", "writer_of", "writes"]

FIELDS = ("path", "label", "confidence", "uncertainty", "reject", "error", "log_odds")
TEXTS = ("path", "label", "error")
KINDS = (".csv", ".jsonl", ".json", ".parquet")
_LOOKED_AT = 1000  # answers by which the columns of a table are made as wide as they need to be
_GROUP = 10_000  # rows of a group in a parquet file

Row = Mapping[str, Any]


class Writer(Protocol):
    """Takes answers one after another."""

    def write(self, row: Row) -> None:
        """Write an answer."""

    def close(self) -> None:
        """Write what ends the file."""


def writer_of(kind: str, stream: TextIO, columns: Sequence[str]) -> Writer:
    """A writer to a text stream, of kind table, csv, json or jsonl."""
    kinds: dict[str, type[Any]] = {"table": _Table, "csv": _Csv, "json": _Json, "jsonl": _JsonLines}
    writer: Writer = kinds[kind](stream, columns)
    return writer


def writes(path: Path) -> None:
    """Raise ValueError for a file whose name does not say what is to be in it, or that cannot be written here."""
    if path.suffix.lower() not in KINDS:
        raise ValueError(f"--out {path}: its ending says what is written, and is one of {', '.join(KINDS)}")
    if path.suffix.lower() == ".parquet":
        try:
            import pyarrow.parquet  # noqa: F401
        except ImportError:
            raise ValueError(
                f"--out {path}: parquet needs pyarrow, which is not installed; take .csv or .jsonl"
            ) from None


def write_all(path: Path, kind: str, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write all answers to a file, of kind .csv, .json, .jsonl or .parquet."""
    if kind == ".parquet":
        _write_parquet(path, columns, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = writer_of(kind.removeprefix("."), stream, columns)
        for row in rows:
            writer.write(row)
        writer.close()


def encodable(text: str, encoding: str = "utf-8") -> str:
    """`text` with what `encoding` has no sign for escaped: `\\xe9` for a byte of a file name that is no UTF-8."""
    plain = text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return plain if encoding == "utf-8" else plain.encode(encoding, "backslashreplace").decode(encoding)


class Tally:
    """What became of the images, counted as answers come."""

    def __init__(self) -> None:
        self.images = self.failed = self.rejected = self.used = self.with_used = 0

    def add(self, row: Row) -> None:
        """Count an answer."""
        self.images += 1
        self.failed += row["error"] is not None
        self.rejected += row["error"] is None and bool(row["reject"])
        if row.get("references_used") is not None:
            self.used += row["references_used"]
            self.with_used += 1

    @property
    def status(self) -> int:
        """The exit status that these answers mean."""
        return 1 if self.failed == self.images else 3 if self.failed else 0


class _Csv:
    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._writer, self._stream = csv.DictWriter(stream, list(columns), lineterminator="\n"), stream
        self._writer.writeheader()

    def write(self, row: Row) -> None:
        self._writer.writerow({name: _cell(value) if name in TEXTS else value for name, value in row.items()})

    def close(self) -> None:
        self._stream.flush()


def _cell(text: str | None) -> str | None:
    """A text for a spreadsheet, which would compute one that begins so: an apostrophe before it makes it text."""
    return f"'{text}" if text is not None and is_computed(text) else text


class _JsonLines:
    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._stream = stream

    def write(self, row: Row) -> None:
        self._stream.write(json.dumps(row, ensure_ascii=False) + "\n")

    def close(self) -> None:
        self._stream.flush()


class _Json:
    """One list, indented."""

    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._stream, self._any = stream, False

    def write(self, row: Row) -> None:
        text = json.dumps(row, indent=1, ensure_ascii=False).replace("\n", "\n ")
        self._stream.write(f"{',' if self._any else '['}\n {text}")
        self._any = True

    def close(self) -> None:
        self._stream.write("\n]\n" if self._any else "[]\n")
        self._stream.flush()


class _Table:
    """Columns as wide as the first thousand answers need."""

    def __init__(self, stream: TextIO, columns: Sequence[str]) -> None:
        self._stream, self._widths = stream, list[int]()
        self._waiting = [("image", "label", "confidence", "uncertainty", "reject")]

    def write(self, row: Row) -> None:
        if row["error"] is not None:
            self._line((printable(row["path"]), "(no answer)" if row["reject"] else "(unreadable)", "", "", ""))
            return
        uncertainty = "" if row["uncertainty"] is None else f"{row['uncertainty']:.4f}"
        reject = "reject" if row["reject"] else ""
        self._line((printable(row["path"]), printable(row["label"]), f"{row['confidence']:.1%}", uncertainty, reject))

    def _line(self, line: tuple[str, str, str, str, str]) -> None:
        if not self._widths:
            self._waiting.append(line)
            if len(self._waiting) > _LOOKED_AT:
                self._begin()
            return
        cells = zip(line, self._widths, (str.ljust, str.ljust, str.rjust, str.rjust, str.ljust), strict=True)
        self._stream.write("  ".join(place(text, width) for text, width, place in cells).rstrip() + "\n")

    def _begin(self) -> None:
        self._widths = [max(len(line[i]) for line in self._waiting) for i in range(5)]
        for line in self._waiting:
            self._line(line)
        self._waiting = []

    def close(self) -> None:
        if not self._widths:
            self._begin()
        self._stream.flush()


def _write_parquet(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"reject": pa.bool_(), "references_used": pa.int32(), **dict.fromkeys(TEXTS, pa.string())}
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        group: list[Row] = []
        for row in rows:
            group.append(row)
            if len(group) == _GROUP:
                writer.write_table(pa.Table.from_pylist(group, schema))
                group = []
        if group:
            writer.write_table(pa.Table.from_pylist(group, schema))


class Encoded:
    """Standard output for names that its encoding has no sign for: they are escaped, and the rest goes on."""

    def __init__(self) -> None:
        self._encoding = getattr(sys.stdout, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write text."""
        return sys.stdout.write(encodable(text, self._encoding))

    def flush(self) -> None:
        """Hand on what was written."""
        sys.stdout.flush()
