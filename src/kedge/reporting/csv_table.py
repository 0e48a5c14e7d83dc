"""Results as CSV in long form: one number a line."""

import csv
import io
from collections.abc import Iterable
from typing import Any

from kedge.printable import cell
from kedge.reporting.files import check_results
from kedge.reporting.rows import Number, estimate
from kedge.reporting.sections import (
    attack,
    clean,
    comparing,
    ood,
    prediction_sets,
    run,
    selective,
    shift,
    stability,
    unlabelled,
)

COLUMNS = ("model", "part", "where", "severity", "score", "metric", "value", "low", "high", "n")


def as_csv(results: dict[str, Any]) -> str:
    """One line per number, with a header: model, part, where, severity, score, metric, value, low, high, n.

    Shares are fractions; `n` is the number of images that the number rests on (out of distribution: those of the
    set, next to the clean ones), for seeds that of the models. A name that a spreadsheet would take for a formula has
    an apostrophe before it.
    """
    results = check_results(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(model: str, numbers: Iterable[Number]) -> None:
        for *place, value, n in numbers:
            known = estimate(value)
            if known is not None:
                row = (model, *place, known["value"], known.get("low"), known.get("high"))
                writer.writerow([*(cell(each) if isinstance(each, str) else each for each in row), n])

    for name, model in results["models"].items():
        for part in (clean, shift, ood, selective, prediction_sets, stability, attack, unlabelled, run):
            write(name, part.numbers(model, results))
    for names, numbers in comparing.numbers(results):
        write(names, numbers)
    return stream.getvalue()
