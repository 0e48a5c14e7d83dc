"""Every test image as CSV: a line for each model and image, to sort and filter in a spreadsheet."""

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kedge.files import write_text
from kedge.printable import cell
from kedge.reporting.files import check_results
from kedge.unknown import answer, words

COLUMNS = (
    "model", "file", "index", "truth", "label", "confidence", "right", "answer", "uncertainty", "log_odds",
)  # fmt: skip


def images_csv(results: dict[str, Any]) -> str:
    """A line for each model and test image, with a header; the header alone where results do not have them.

    `label` is the class that the model finds most probable, `answer` the same, or "unknown" or "unsure" where its
    stored rules leave the image to a person (see `kedge.unknown.answers`); `file` is empty for sets without files,
    whose images `index` counts. A name that a spreadsheet would take for a formula has an apostrophe before it.
    """
    results = check_results(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)
    for name, model in results["models"].items():
        writer.writerows([cell(name), *row] for row in _rows(results, model))
    return stream.getvalue()


def write_images(results: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write `images_csv` of the results of `kedge.evaluation.evaluate`, atomically, and return the path."""
    return write_text(path, images_csv(results))


def _rows(results: dict[str, Any], model: dict[str, Any]) -> Iterator[list[Any]]:
    images, answers = results["test_images"], model["answers"]
    if images is None or answers is None:
        return
    names = [cell(name) for name in results["data"]["class_names"]]
    files, own = images["files"], words(results["data"]["class_names"])
    for i, truth in enumerate(images["labels"]):
        label = answers["predicted"][i]
        unknown, unsure = ((answers.get(rule) or [])[i : i + 1] == [1] for rule in ("unknown", "unsure"))
        yield [
            cell(files[i]) if files else "",
            images["positions"][i] if images["positions"] else i,
            names[truth],
            names[label],
            answers["confidence"][i],
            label == truth,
            answer(names[label], unknown, unsure, own),
            answers["uncertainty"][i] if answers["uncertainty"] else "",
            answers["log_odds"][i],
        ]
