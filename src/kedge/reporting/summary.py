"""The summary: what a practitioner needs first, as rows with a column for each model, and as sentences about one."""

from typing import Any

from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Row, short
from kedge.reporting.sections import attack, clean, ood, prediction_sets, run, selective, shift, stability, unlabelled

__all__ = ["about", "cautions", "summary_rows"]


def summary_rows(results: dict[str, Any]) -> list[Row]:
    """The summary of all models, in reading order; `results` are of the newest format."""
    lines = Lines(results)
    for part in (clean, shift, ood, selective, prediction_sets, stability, attack, unlabelled, run):
        part.summary(lines)
    return lines.rows


def cautions(rows: list[Row]) -> str:
    """What to know of the intervals that rows have, such as why a calibration error lies at the end of its own."""
    spread = (row for row in rows if any(row.spread(i) for i in range(len(row.cells))))
    return " ".join(dict.fromkeys(row.caution for row in spread if row.caution))


def about(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What one model did, in sentences that claim no more than the intervals allow; `results` of the newest format."""
    errors = [f"{printable(e['part'])} failed: {printable(e['message'])}." for e in model["errors"]]
    if model["clean"] is None:
        return [*errors, f"{short(name)} has no results on clean images."]
    first, *more = clean.sentences(name, model, results) or [f"{short(name)} has no accuracy on clean images."]
    parts = [
        part.sentences(name, model, results) for part in (shift, ood, attack, selective, prediction_sets, stability)
    ]
    return [first, *errors, *unlabelled.sentences(name, model), *more, *(text for part in parts for text in part)]
