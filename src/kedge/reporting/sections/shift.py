"""Corrupted images and published shifted sets: curves, heat maps, numbers."""

from typing import Any

from markupsafe import Markup

from kedge.metrics._base import Metric, metrics
from kedge.printable import printable
from kedge.reporting.rows import dig, estimate, number, rows_of, spread
from kedge.reporting.svg import Plot, svg


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Plots of the means against severity, a heat map for each model and metric, and a row per published set."""
    models = list(results["models"].values())
    corrupted = [i for i, m in enumerate(models) if m["shift"] is not None and m["shift"]["conditions"]]
    sets = _sets(results, models)
    if not corrupted and not sets:
        return None
    return {
        "kinds": len(results["settings"]["corruptions"]),
        "plots": _curves(models, corrupted) if corrupted else [],
        "heat": [
            {"title": title(one), "note": "stronger colour: worse", "open": place == 0, "maps": maps, "range": extremes}
            for place, one in enumerate(drawn())
            for maps, extremes in [_heat_maps(models, corrupted, one)]
            if maps
        ],
        "missing": len(corrupted) < len(models) and bool(corrupted),
        "sets": sets,
    }


def drawn() -> list[Metric]:
    """The metrics that are drawn against severity: those of which claims are made."""
    return [one for one in metrics() if one.claims and "shift" in one.places]


def title(one: Metric) -> str:
    """The label of a metric as a title, with its unit."""
    return f"{one.label[0].upper()}{one.label[1:]}, %"


def _curves(models: list[dict[str, Any]], indices: list[int]) -> list[dict[str, Any]]:
    plots = []
    for one in drawn():
        lines = []
        for i in indices:
            points = [
                (0, dig(models[i], "clean", one.key)),
                *((r["severity"], r[one.key]) for r in models[i]["shift"]["by_severity"]),
            ]
            lines.append((i, [(s, e) for s, e in points if estimate(e) is not None]))
        severities = sorted({s for _, points in lines for s, _ in points})
        top = (
            100.0 if one.better == "higher" else max(5.0, *(110 * e["value"] for _, points in lines for _, e in points))
        )
        plot = Plot((severities[0] - 0.1, severities[-1] + 0.1), (0, min(top, 100.0)), "severity (0 = clean)",
                    width=360, height=240, x_ticks=severities)  # fmt: skip
        for i, points in lines:
            x = [s for s, _ in points]
            if all(e["low"] is not None for _, e in points):
                plot.band(x, [100 * e["low"] for _, e in points], [100 * e["high"] for _, e in points], i)
        for i, points in lines:
            plot.line([s for s, _ in points], [100 * e["value"] for _, e in points], i)
        plots.append({"title": title(one), "better": one.better, "plot": svg(plot)})
    return plots


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
                    "mean": number(mean, "%") if mean is not None else None,
                }
            )
        maps.append({"model": i, "severities": severities, "rows": rows, "means": len(severities) > 1})
    worst_first = (number(low, "%"), number(high, "%"))
    return maps, worst_first if one.better == "higher" else (worst_first[1], worst_first[0])


def _heat_cell(cell: dict[str, Any] | None, better: str | None, low: float, high: float) -> dict[str, str]:
    if cell is None:
        return {"text": "–", "strength": "0", "title": "not measured"}
    share = (cell["value"] - low) / ((high - low) or 1)
    strength = 1 - share if better == "higher" else share
    bounds = spread(cell, "%")
    title = f"{number(cell['value'], '%')} %{f' ({bounds})' if bounds else ''}"
    return {"text": number(cell["value"], "%"), "strength": f"{0.62 * strength:.2f}", "title": title}


def _sets(results: dict[str, Any], models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each published set its record and a row for each metric."""
    sets = []
    for name, record in results["shift_sets"].items():
        rows = [
            row
            for one in metrics()
            if "shift" in one.places
            for row in rows_of(one, [dig(m, "shift_sets", name, one.key) for m in models], (), printable(name))
        ]
        if rows:
            part = record["classes"] is not None and record["classes"] != record["of_classes"]
            sets.append({"name": printable(name), "record": record, "rows": rows, "part": part})
    return sets


def legend_of_heat() -> Markup:
    """The scale of the heat maps as a strip of colours."""
    return Markup("".join(f'<span style="--a:{0.62 * k / 8:.2f}"></span>' for k in range(9)))
