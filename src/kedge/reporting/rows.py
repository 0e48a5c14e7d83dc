"""The lines of a table: how numbers are written, which direction is better, and what may be called better."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kedge.metrics._base import Metric
from kedge.metrics._results import Line
from kedge.printable import printable
from kedge.rejection import in_words

Estimate = dict[str, Any]  # value, low, high

# What groups of seeds are compared by on images of other kinds.
OUTSIDE = {
    "auroc": ("AUROC by confidence", "%", "higher"),
    "answered": ("answered above the stored threshold", "%", "lower"),
}


@dataclass(frozen=True)
class Row:
    """One line of a table with a column for each model.

    Attributes:
        group: what it was measured on.
        label: what was measured.
        unit: "%", "%%" (two decimals), "", "/s", "count" or "confidence" (a threshold, which does not read 1 below 1).
        better: "higher", "lower" or None.
        cells: per model, in order, an estimate (value, low, high) or None.
        ahead: per model the others whose intervals lie wholly on the worse side of its own; empty: nothing is claimed.
        marks: per model what stands where there is no number, such as "failed: out of memory".
        notes: per model a note that stands beside the interval.
        unbiased: whether the intervals are about numbers without the bias that few images give them.
        bare: whether the unit stands elsewhere.
    """

    group: str
    label: str
    unit: str
    better: str | None
    cells: list[Estimate | None]
    ahead: tuple[tuple[int, ...], ...] = ()
    marks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    unbiased: bool = False
    bare: bool = False

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


def number(value: float | None, unit: str) -> str:
    """A number in the precision that its unit deserves."""
    if value is None:
        return "–"
    if unit.startswith("%"):
        return f"{100 * value:.{len(unit)}f}"
    if unit == "confidence":
        return in_words({"threshold": value})
    if unit == "/s":
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,.0f}" if unit == "count" else f"{value:.3f}"


def spread(cell: Estimate | None, unit: str) -> str:
    """The 95 % interval of an estimate, empty where there is none."""
    if cell is None or cell.get("low") is None or cell.get("high") is None:
        return ""
    low, high = number(cell["low"], unit), number(cell["high"], unit)
    # An en dash between negative numbers cannot be read.
    return f"{low} to {high}".replace("-", "−") if "-" in low + high else f"{low}–{high}"


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
    bounds = [(c["low"], c["high"]) if c is not None and c.get("low") is not None else None for c in cells]
    texts = [None if c is None else number(c["value"], unit) for c in cells]
    return tuple(
        tuple(
            j
            for j, other in enumerate(bounds)
            if own is not None and other is not None and _apart(own, other, better) and texts[i] != texts[j]
        )
        for i, own in enumerate(bounds)
    )


def best_of(cells: Sequence[Estimate | None], better: str | None, unit: str) -> int | None:
    """The model whose 95 % interval lies wholly on the better side of every other one's, or None."""
    return Row("", "", unit, better, list(cells), ahead_of(cells, better, unit)).best


def value_of(model: dict[str, Any], metric: Metric) -> Any:
    """What a model has of a metric on clean images, or None; earlier results have some of them elsewhere."""
    for place in (("clean",), ("clean", "calibration"), ("selective",)):
        if (value := dig(model, *place, metric.key)) is not None:
            return value
    return None


def rows_of(metric: Metric, values: Sequence[Any], class_names: Sequence[str], group: str = "") -> list[Row]:
    """The lines of a metric in a table, without those that no model has a number for."""
    return rows_from(metric.lines(values, class_names), metric, values, group)


def rows_from(lines: Sequence[Line], metric: Metric, values: Sequence[Any], group: str = "") -> list[Row]:
    """Lines of a metric as rows; `values` are what the models have of it."""
    rows = []
    for line in lines:
        cells = [estimate(v) for v in line.cells]
        if any(cell is not None for cell in cells):
            ahead = ahead_of(cells, line.better, line.unit) if metric.comparable(values) else ()
            notes = tuple(short(note) if note else "" for note in line.notes)
            rows.append(Row(group, short(line.label, 80), line.unit, line.better, cells, ahead, (), notes,
                            metric.unbiased))  # fmt: skip
    return rows


def _apart(own: tuple[Any, Any], other: tuple[Any, Any], better: str) -> bool:
    return own[0] > other[1] if better == "higher" else own[1] < other[0]


def dig(record: Any, *keys: Any) -> Any:
    """`record[keys[0]][keys[1]]...`, or None where one of them is missing."""
    for key in keys:
        if not isinstance(record, dict):
            return None
        record = record.get(key)
    return record


def failure(model: dict[str, Any], part: str, name: str | None = None, also: Sequence[str] = ()) -> str | None:
    """Why `part` ("shift", "ood", "attack", ...), or `name` of it, has no numbers; None when nothing went wrong.

    The `part` of an error is a kind ("attacks"), a kind and a name ("ood mnist"), or a name alone; `also` are names
    that count as this part whatever follows ("gaussian_noise 3").
    """
    for error in model["errors"]:
        text = str(error["part"])
        kind, _, rest = text.replace(": ", " ").partition(" ")
        of_kind = kind.rstrip("s") == part.rstrip("s") and (not rest or name is None or rest == name)
        whole = text in ("clean", "model") or (part == "ood" and kind == "clean,")
        if whole or of_kind or text == name or kind in also:
            return printable(error["message"])
    return None
