"""What tables, page and CSV are made of: rows with a number for each model, and how a number is written for people."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

from kedge.metrics._base import Metric, metrics
from kedge.metrics._results import Line
from kedge.printable import printable
from kedge.rejection import in_words

Estimate = dict[str, Any]  # value, low, high
# One line of the CSV, of one model: part, where, severity, score, metric, value or estimate, number of images.
Number = tuple[str, str, int | str, str, str, Any, int | None]


@dataclass(frozen=True)
class Row:
    """One line of a table with a column for each model.

    Attributes:
        label: what was measured.
        unit: "%", "%%" (two decimals), "", "/s", "count" or "confidence" (a threshold, which does not read 1 below 1).
        better: "higher", "lower" or None.
        values: per model, in order, an estimate (value, low, high), a number or None.
        group: what it was measured on.
        judged: whether intervals that lie apart say that a model is better.
        marks: per model what stands where there is no number, such as "failed: out of memory".
        notes: per model a note that stands beside the interval.
        caution: what to know of the intervals; "" for nothing.
        bare: whether the unit stands elsewhere.
    """

    label: str
    unit: str
    better: str | None
    values: Sequence[Any]
    group: str = ""
    judged: bool = True
    marks: Sequence[str] = ()
    notes: Sequence[str] = ()
    caution: str = ""
    bare: bool = False

    @cached_property
    def cells(self) -> list[Estimate | None]:
        """The values as estimates."""
        return [estimate(value) for value in self.values]

    @property
    def measured(self) -> bool:
        """Whether any model has a number."""
        return any(cell is not None for cell in self.cells)

    @cached_property
    def ahead(self) -> tuple[tuple[int, ...], ...]:
        """Per model the others whose intervals lie wholly on the worse side of its own; empty: nothing is claimed."""
        return ahead_of(self.cells, self.better, self.unit) if self.judged else ()

    @property
    def best(self) -> int | None:
        """The model that is ahead of every other one, or None."""
        most = len(self.cells) - 1
        return next((i for i, others in enumerate(self.ahead) if most and len(others) == most), None)

    def beats(self, i: int) -> tuple[int, ...]:
        """The models that model `i` is ahead of, where these are not all."""
        return () if self.best == i or not self.ahead else self.ahead[i]

    @property
    def title(self) -> str:
        """The label with its unit."""
        return self.label + (", %" if self.unit.startswith("%") and not self.bare else "")

    def failed(self, i: int) -> bool:
        """Whether model `i` has no number here though one was asked for."""
        return self.cells[i] is None and bool(self.marks) and bool(self.marks[i])

    def text(self, i: int) -> str:
        """The value of model `i` for people; a dash when there is none, words when it is missing for a reason."""
        cell = self.cells[i]
        if cell is None:
            return self.marks[i] if self.failed(i) else "–"
        return number(cell["value"], self.unit)

    def spread(self, i: int) -> str:
        """The 95 % interval of model `i` for people and the note beside it; empty when there is neither."""
        note = self.notes[i] if self.notes else ""
        return ", ".join(filter(None, (spread(self.cells[i], self.unit), note)))


class Question(NamedTuple):
    """What models are compared by, in words, with the value of each; of an attack also its record."""

    words: str
    metric: str
    where: str
    better: str
    values: Sequence[Any]
    attack: dict[str, Any] | None = None


def number(value: float | str | None, unit: str = "%") -> str:
    """A number in the precision that its unit deserves; a word in place of one, such as "infinite", as it is."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return printable(value)
    if unit.startswith("%"):
        return f"{100 * value:.{len(unit)}f}"
    if unit == "confidence":
        return in_words({"threshold": value})
    if unit == "/s":
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,.0f}" if unit == "count" else f"{value:.3f}"


def spread(cell: Estimate | None, unit: str = "%") -> str:
    """The 95 % interval of an estimate, empty where there is none."""
    if cell is None or cell.get("low") is None or cell.get("high") is None:
        return ""
    low, high = number(cell["low"], unit), number(cell["high"], unit)
    # An en dash between negative numbers cannot be read.
    return f"{low} to {high}".replace("-", "−") if "-" in low + high else f"{low}–{high}"


def bounds(cell: Estimate) -> str:
    """The 95 % interval of a share inside a sentence, empty where there is none."""
    if cell.get("low") is None:
        return ""
    return f" (95 % interval {number(cell['low'])} to {number(cell['high'])})"


def short(name: Any, most: int = 36) -> str:
    """A printable name with its middle left out where it is longer than `most`."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def estimate(value: Any) -> Estimate | None:
    """`value` as an estimate: it may be one, a number or None."""
    if value is None:
        return None
    if isinstance(value, dict):
        return value if value.get("value") is not None else None
    return {"value": float(value), "low": None, "high": None}


def ahead_of(cells: Sequence[Estimate | None], better: str | None, unit: str) -> tuple[tuple[int, ...], ...]:
    """Per model the others that its 95 % interval lies wholly on the better side of; empty if neither is better.

    A difference that vanishes in the printed precision of `unit` is no difference.
    """
    if better is None:
        return ()
    ends = [(c["low"], c["high"]) if c is not None and c.get("low") is not None else None for c in cells]
    texts = [None if c is None else number(c["value"], unit) for c in cells]

    def apart(i: int, j: int) -> bool:
        own, other = ends[i], ends[j]
        if own is None or other is None or texts[i] == texts[j]:
            return False
        return bool(own[0] > other[1] if better == "higher" else own[1] < other[0])

    models = range(len(cells))
    return tuple(tuple(j for j in models if apart(i, j)) for i in models)


def best_of(cells: Sequence[Estimate | None], better: str | None, unit: str) -> int | None:
    """The model whose 95 % interval lies wholly on the better side of every other one's, or None."""
    return Row("", unit, better, cells).best


def value_of(model: dict[str, Any], metric: Metric) -> Any:
    """What a model has of a metric on clean images, or None; earlier results have some of them elsewhere."""
    for place in (("clean",), ("clean", "calibration"), ("selective",)):
        if (value := dig(model, *place, metric.key)) is not None:
            return value
    return None


def summarised(place: str, classes: int = 0) -> list[Metric]:
    """The metrics that the summary has of a place."""
    return [one for one in metrics() if place in one.summary and classes >= one.classes]


def phrases(place: str, measured: Any) -> list[tuple[str, Estimate]]:
    """How metrics put what was `measured` of images of a place (by key) in a sentence, and the estimates themselves.

    The sentence begins with the first of them: without its number there is none.
    """
    cells = [
        (one.phrases[place], one.unit, estimate(dig(measured, one.key))) for one in metrics() if place in one.phrases
    ]
    clauses = [(words.format(number(cell["value"], unit)), cell) for words, unit, cell in cells if cell is not None]
    return clauses if cells and cells[0][2] is not None else []


def rows_of(metric: Metric, values: Sequence[Any], class_names: Sequence[str] = ()) -> list[Row]:
    """The lines of a metric in a table, without those that no model has a number for."""
    return [row for row in rows_from(metric.lines(values, class_names), metric, values) if row.measured]


def rows_from(lines: Sequence[Line], metric: Metric, values: Sequence[Any], group: str = "") -> list[Row]:
    """Lines of a metric as rows; `values` are what the models have of it."""
    judged = metric.comparable(values)
    return [
        Row(short(line.label, 80), line.unit, line.better, line.cells, group, judged,
            notes=[short(note) if note else "" for note in line.notes], caution=metric.caution)
        for line in lines
    ]  # fmt: skip


def dig(record: Any, *keys: Any) -> Any:
    """`record[keys[0]][keys[1]]...`, or None where one of them is missing."""
    for key in keys:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record
