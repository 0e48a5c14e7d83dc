"""How answers are written: as a table, CSV, JSON, JSON lines or parquet, each as it comes, none held in memory."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, TextIO

from kedge.printable import cell, printable

__all__ = ["FIELDS", "Tally", "check_kind", "encodable", "write_answers", "write_file"]

FIELDS = ("path", "answer", "label", "confidence", "uncertainty", "reject", "unknown", "error", "log_odds")
OF_SETS = ("set", "expected_right", "unfamiliar")  # beside those with --sets
TEXTS = ("path", "answer", "label", "error")
KINDS = (".csv", ".jsonl", ".json", ".parquet")
_LOOKED_AT = 1000  # answers by which the columns of a table are made as wide as they need to be
_SHOWN = 5  # classes of a set that a table names
_GROUP = 10_000  # rows of a group in a parquet file

Row = Mapping[str, Any]


def write_answers(kind: str, stream: TextIO, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write answers to a text stream as they come, as table, csv, json or jsonl."""
    {"table": _table, "csv": _csv, "json": _json, "jsonl": _json_lines}[kind](stream, columns, rows)


def write_file(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Write answers to a file, whose ending says how."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        _parquet(path, columns, rows)
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        write_answers(kind.removeprefix("."), stream, columns, rows)


def check_kind(path: Path) -> None:
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


def encodable(text: str) -> str:
    """`text` with each byte of a file name that is no UTF-8 escaped, such as `\\xe9`."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


class Tally:
    """What became of the images, counted as answers come."""

    def __init__(self) -> None:
        self.images = self.failed = self.unsure = self.unknown = self.used = self.with_used = 0
        self.in_sets = self.empty = self.expected_right = self.unfamiliar = 0

    def add(self, row: Row) -> None:
        """Count an answer."""
        self.images += 1
        self.failed += row["error"] is not None
        self.unsure += row["error"] is None and bool(row["reject"]) and not row["unknown"]
        self.unknown += row["error"] is None and bool(row["unknown"])
        if row.get("references_used") is not None:
            self.used += row["references_used"]
            self.with_used += 1

        if row.get("set") is not None:
            self.in_sets += len(row["set"])
            self.empty += not row["set"]
            self.expected_right += row["expected_right"]
            self.unfamiliar += row["unfamiliar"]

    @property
    def status(self) -> int:
        """The exit status that these answers mean."""
        return 1 if self.failed == self.images else 3 if self.failed else 0


def _csv(stream: TextIO, columns: Sequence[str], rows: Iterable[Row]) -> None:
    writer = csv.DictWriter(stream, list(columns), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {name: cell(value) if name in TEXTS and value is not None else value for name, value in row.items()}
        if cells.get("set") is not None:  # names may hold any separator: a list as JSON has it
            cells["set"] = json.dumps(cells["set"], ensure_ascii=False)
        writer.writerow(cells)


def _json_lines(stream: TextIO, columns: Sequence[str], rows: Iterable[Row]) -> None:
    for row in rows:
        stream.write(json.dumps(row, ensure_ascii=False) + "\n")


def _json(stream: TextIO, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """One list, indented."""
    mark = "["
    for row in rows:
        text = json.dumps(row, indent=1, ensure_ascii=False).replace("\n", "\n ")
        stream.write(f"{mark}\n {text}")
        mark = ","
    stream.write("[]\n" if mark == "[" else "\n]\n")


def _table(stream: TextIO, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Columns as wide as the first thousand answers need."""
    sets = "set" in columns
    heads = ("image", "answer", "label", "confidence", "uncertainty", *(["set"] if sets else []))
    sides = (str.ljust, str.ljust, str.ljust, str.rjust, str.rjust, *([str.ljust] if sets else []))
    lines = chain([heads], ((*_line(row), *([_listed(row["set"])] if sets else [])) for row in rows))
    first = list(islice(lines, 1 + _LOOKED_AT))
    widths = [max(map(len, column)) for column in zip(*first, strict=True)]
    for line in chain(first, lines):
        cells = zip(line, widths, sides, strict=True)
        stream.write("  ".join(place(text, width) for text, width, place in cells).rstrip() + "\n")


def _line(row: Row) -> tuple[str, ...]:
    if row["error"] is not None:
        return printable(row["path"]), "(no answer)" if row["reject"] else "(unreadable)", "", "", ""
    uncertainty = "" if row["uncertainty"] is None else f"{row['uncertainty']:.4f}"
    answer, label = printable(row["answer"]), printable(row["label"])
    return printable(row["path"]), answer, label, f"{row['confidence']:.1%}", uncertainty


def _listed(names: Sequence[str] | None) -> str:
    """A set in a table: its classes, the most probable first, of many some."""
    if names is None:
        return ""
    if not names:
        return "(none)"
    more = f", and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return printable(", ".join(names[:_SHOWN]) + more)


def _parquet(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    kinds = {"references_used": pa.int32(), "set": pa.list_(pa.string()), **dict.fromkeys(TEXTS, pa.string())}
    kinds |= dict.fromkeys(("reject", "unknown", "expected_right", "unfamiliar"), pa.bool_())
    schema = pa.schema([(name, kinds.get(name, pa.float64())) for name in columns])
    with pq.ParquetWriter(path, schema) as writer:
        iterator = iter(rows)
        while group := list(islice(iterator, _GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema))
