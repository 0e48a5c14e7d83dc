"""The lines of the summary as they are collected, with the reason where a number is missing."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kedge.metrics._base import Metric
from kedge.printable import printable
from kedge.reporting.rows import Row, rows_from, short


class Lines:
    """Collects rows; a row that no model has a value for is left out unless something failed there."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results
        self.models = list(results["models"].values())
        self.class_names = results["data"]["class_names"]
        self.rows: list[Row] = []

    def add(self, row: Row, marks: Sequence[str] = ()) -> None:
        """Add `row`; `marks`: per model why it has no number."""
        first = all(other.group != row.group for other in self.rows)
        if not first:  # the reason once is enough
            marks = [mark.partition(":")[0] for mark in marks]
        if row.measured or (first and any(marks)):
            self.rows.append(replace(row, marks=marks))

    def metric(self, group: str, one: Metric, values: Sequence[Any], marks: Sequence[str] = ()) -> None:
        """Add the rows of a metric, as it says itself."""
        for row in rows_from(one.lines(values, self.class_names), one, values, group):
            self.add(row, marks)

    def marks(
        self, values: Sequence[Any], part: str, name: str | None = None, also: Sequence[str] = (), expected: bool = True
    ) -> list[str]:
        """Per model: "" where there are `values`, else why not, "not done" in unfinished results, or ""."""

        def mark(model: dict[str, Any], here: Any) -> str:
            if here:
                return ""
            why = failure(model, part, name, also)
            if why and part != "clean" and model["clean"] is None:
                return "failed"  # with everything else of this model, for the reason given there
            return (
                f"failed: {short(why, 60)}" if why else "not done" if expected and not self.results["complete"] else ""
            )

        return [mark(model, value) for model, value in zip(self.models, values, strict=True)]


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
