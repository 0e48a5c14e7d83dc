"""Corrupted images and published shifted sets: rows, sentences, curves, heat maps, numbers."""

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from kedge.metrics._base import Metric, leading, metrics
from kedge.printable import printable
from kedge.reporting.evaluations import generated, shift_notes
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Question, Row, dig, estimate, number, phrases, rows_of, spread, summarised
from kedge.reporting.sections.calibration import leaning
from kedge.reporting.svg import Plot, svg


def summary(lines: Lines) -> None:
    """The means over corruptions, the first metric at each severity, and the published sets."""
    settings, models = lines.results["settings"], lines.models
    count, severities = len(settings["corruptions"]), settings["severities"]
    first = leading("clean")
    if count:
        means = [estimate(dig(m, "shift", "mean", first.key)) for m in models]
        marks = lines.marks(means, "shift", also=settings["corruptions"])
        many = len(severities) > 1
        group = f"Corrupted (mean of {count} × {len(severities)})" if many else (
            f"Corrupted ({count} kind{'s' if count > 1 else ''}, severity {severities[0]})"
        )  # fmt: skip
        for one in summarised("shift"):
            lines.metric(group, one, [dig(m, "shift", "mean", one.key) for m in models], marks)
        for severity in severities if many else []:
            own = [_at(m, severity, first) for m in models]
            lines.add(Row(f"{first.label} at severity {severity}", first.unit, first.better, own, group), marks)
    for name in lines.results["shift_sets"]:
        entries = [m["shift_sets"].get(name) for m in models]
        marks = lines.marks(entries, "shift_set", name)
        for one in summarised("sets"):
            lines.metric(f"Published set: {printable(name)}", one, [dig(f, one.key) for f in entries], marks)


def _at(model: dict[str, Any], severity: int, one: Metric) -> Any:
    rows = dig(model, "shift", "by_severity") or []
    return next((row.get(one.key) for row in rows if row["severity"] == severity), None)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What is left on corrupted images and on each published set."""
    lines, first = [], leading("clean")
    if clauses := phrases("shift", dig(model, "shift", "mean")):
        by_severity = model["shift"]["by_severity"]
        text = f"On corrupted images it {', with '.join(words for words, _ in clauses)}"
        text += leaning(model["shift"]["reliability"], results["data"]["images"], dig(model, "shift", "mean", "ece"))
        if len(by_severity) > 1:
            worst = by_severity[-1]
            text += f"; at severity {worst['severity']}, {number(dig(worst, first.key, 'value'))} %"
        lines.append(f"{text}.")
    for set_name, entry in model["shift_sets"].items():
        if clauses := phrases("shift", entry):
            record = results["shift_sets"].get(set_name) or {}
            # Fewer classes are easier: the two accuracies cannot be set against each other.
            fewer = record.get("classes") != record.get("of_classes")
            clean = number(dig(model, "clean", first.key, "value"))
            against = " (of fewer classes)" if fewer else f", against {clean} % on clean images"
            lines.append(f"On {printable(set_name)} it {clauses[0][0]}{against}.")
    return lines


def questions(results: dict[str, Any]) -> list[Question]:
    """What models are compared by on corrupted images and on published sets."""
    models = results["models"].values()
    corrupted = [
        Question(f"{one.claims} on corrupted images", one.name, "corrupted", one.better or "",
                 [dig(m, "shift", "mean", one.key) for m in models])
        for one in metrics() if one.claims and results["settings"]["corruptions"]
    ]  # fmt: skip
    return corrupted + [
        Question(f"{one.claims} on {printable(name)}", one.name, name, one.better or "",
                 [dig(m, "shift_sets", name, one.key) for m in models])
        for name in results["shift_sets"]
        for one in metrics() if one.claims and one.of_right_answers
    ]  # fmt: skip


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every number of a model on corrupted images and on published sets."""
    measured, n = [one.key for one in metrics() if "shift" in one.places], results["data"]["images"]
    shift = model["shift"] or {"mean": {}, "by_severity": [], "conditions": []}
    rows = [("mean", "", shift["mean"]), *(("mean", row["severity"], row) for row in shift["by_severity"]),
            *((row["corruption"], row["severity"], row) for row in shift["conditions"])]  # fmt: skip
    for where, severity, row in rows:
        for metric in measured:
            yield "shift", where, severity, "", metric, row.get(metric), n
    for name, own in model["shift_sets"].items():
        for metric in measured:
            yield "shift set", name, "", "", metric, dig(own, metric), dig(results["shift_sets"], name, "images")


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Plots of the means against severity, a heat map for each model and metric, and a row per published set."""
    models = list(results["models"].values())
    corrupted = [i for i, m in enumerate(models) if m["shift"] is not None and m["shift"]["conditions"]]
    sets = _sets(results, models)
    if not corrupted and not sets:
        return None
    return {
        "kinds": len(results["settings"]["corruptions"]),
        "plots": [_curve(models, corrupted, one) for one in drawn()] if corrupted else [],
        "heat": [
            {"title": title(one), "note": "stronger colour: worse", "open": place == 0, "maps": maps, "range": extremes}
            for place, one in enumerate(drawn())
            for maps, extremes in [_heat_maps(models, corrupted, one)]
            if maps
        ],
        "missing": len(corrupted) < len(models) and bool(corrupted),
        "generated": generated(results),
        "notes": [(printable(name), [printable(note) for note in own]) for name, own in shift_notes(results) if own],
        "sets": sets,
    }


def drawn() -> list[Metric]:
    """The metrics that are drawn against severity: those of which claims are made."""
    return [one for one in metrics() if one.claims and "shift" in one.places]


def title(one: Metric) -> str:
    """The label of a metric as a title, with its unit."""
    return f"{one.label[0].upper()}{one.label[1:]}, %"


def _curve(models: list[dict[str, Any]], indices: list[int], one: Metric) -> dict[str, Any]:
    """A metric against severity, a line for each model."""
    lines = {}
    for i in indices:
        by_severity = [(row["severity"], row[one.key]) for row in models[i]["shift"]["by_severity"]]
        points = [(0, dig(models[i], "clean", one.key)), *by_severity]
        lines[i] = [(s, e) for s, e in points if estimate(e) is not None]
    severities = sorted({s for points in lines.values() for s, _ in points})
    values = [e["value"] for points in lines.values() for _, e in points]
    top = 100.0 if one.better == "higher" else max(5.0, *(110 * value for value in values))
    plot = Plot((severities[0] - 0.1, severities[-1] + 0.1), (0, min(top, 100.0)), "severity (0 = clean)",
                width=360, height=240, x_ticks=severities)  # fmt: skip
    for i, points in lines.items():
        if all(e["low"] is not None for _, e in points):
            low, high = ([100 * e[end] for _, e in points] for end in ("low", "high"))
            plot.band([s for s, _ in points], low, high, i)
    for i, points in lines.items():
        plot.line([s for s, _ in points], [100 * e["value"] for _, e in points], i)
    return {"title": title(one), "better": one.better, "plot": svg(plot)}


def _heat_maps(
    models: list[dict[str, Any]], indices: list[int], one: Metric
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """For each model rows of corruptions and columns of severities, on one scale of colour; and its ends."""
    conditions = {
        i: {(r["corruption"], r["severity"]): r.get(one.key) for r in models[i]["shift"]["conditions"]} for i in indices
    }
    values = [e["value"] for own in conditions.values() for e in own.values() if e is not None]
    if not values:
        return [], None
    low, high = min(values), max(values)
    maps = []
    for i, own in conditions.items():
        severities = sorted({severity for _, severity in own})
        rows = []
        for corruption in dict.fromkeys(c for c, _ in own):
            cells = [own.get((corruption, s)) for s in severities]
            known = [c["value"] for c in cells if c is not None]
            mean = sum(known) / len(known) if len(known) > 1 else None
            rows.append(
                {
                    "name": printable(corruption).replace("_", " "),
                    "cells": [_heat_cell(c, one.better, low, high) for c in cells],
                    "mean": number(mean) if mean is not None else None,
                }
            )
        maps.append({"model": i, "severities": severities, "rows": rows, "means": len(severities) > 1})
    worst_first = (number(low), number(high))
    return maps, worst_first if one.better == "higher" else (worst_first[1], worst_first[0])


def _heat_cell(cell: dict[str, Any] | None, better: str | None, low: float, high: float) -> dict[str, str]:
    if cell is None:
        return {"text": "–", "strength": "0", "title": "not measured"}
    share = (cell["value"] - low) / ((high - low) or 1)
    strength = 1 - share if better == "higher" else share
    bounds = spread(cell)
    title = f"{number(cell['value'])} %{f' ({bounds})' if bounds else ''}"
    return {"text": number(cell["value"]), "strength": f"{0.62 * strength:.2f}", "title": title}


def _sets(results: dict[str, Any], models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each published set its record and a row for each metric."""
    sets = []
    for name, record in results["shift_sets"].items():
        rows = [
            row
            for one in metrics()
            if "shift" in one.places
            for row in rows_of(one, [dig(m, "shift_sets", name, one.key) for m in models])
        ]
        if rows:
            part = record["classes"] is not None and record["classes"] != record["of_classes"]
            sets.append({"name": printable(name), "record": record, "rows": rows, "part": part})
    return sets


def legend_of_heat() -> Markup:
    """The scale of the heat maps as a strip of colours."""
    return Markup("".join(f'<span style="--a:{0.62 * k / 8:.2f}"></span>' for k in range(9)))
