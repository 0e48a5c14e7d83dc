"""Clean images: what the metrics say of a model on them. (The page has them in its summary.)"""

from collections.abc import Iterator
from typing import Any

from kedge.metrics._base import Metric, metrics
from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Question, bounds, dig, phrases, short, summarised, value_of
from kedge.reporting.sections.calibration import leaning


def summary(lines: Lines) -> None:
    """The metrics that the summary has of clean images."""
    marks = lines.marks([m["clean"] for m in lines.models], "clean")
    for one in summarised("clean", len(lines.class_names)):
        lines.metric("Clean images", one, [value_of(m, one) for m in lines.models], marks)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """How often the model is right and how honest its confidence is, then what single metrics say."""
    clauses = phrases("clean", model["clean"])
    words = "; ".join(text + (bounds(cell) if i == 0 else "") for i, (text, cell) in enumerate(clauses))
    off = leaning(dig(model, "clean", "reliability"), results["data"]["images"], dig(model, "clean", "ece"))
    first = [f"{short(name)} {words}{off}."] if clauses else []
    own = [one.sentence(value_of(model, one), results["data"]["class_names"]) for one in _measured()]
    return first + [printable(sentence) for sentence in own if sentence]


def questions(results: dict[str, Any]) -> list[Question]:
    """What models are compared by on clean images."""
    models = results["models"].values()
    return [
        Question(f"{one.claims} on clean images", one.name, "clean", one.better or "",
                 [value_of(m, one) for m in models])
        for one in metrics() if one.claims
    ]  # fmt: skip


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every number of a model on clean images."""
    n = results["data"]["images"]
    for one in _measured():
        for where, metric, value in one.numbers(value_of(model, one), results["data"]["class_names"]):
            yield "clean", where, "", "", metric, value, None if where else n


def _measured() -> list[Metric]:
    return [one for one in metrics() if one.part in ("clean", "calibration")]
