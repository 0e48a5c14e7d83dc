"""Corrupted images and published shifted sets: curves, heat maps, numbers."""

from typing import Any

from markupsafe import Markup

from kedge.printable import printable
from kedge.reporting.rows import METRICS, Row, ahead_of, comparable, dig, estimate, number, spread
from kedge.reporting.svg import Plot, svg

_KEYS = ("accuracy", "ece", "smooth_ece", "nll", "brier")


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
            {"key": key, "title": title, "note": note, "open": key == "accuracy", "maps": maps, "range": extremes}
            for key, title, note in (
                ("accuracy", "Accuracy, %", "stronger colour: fewer right answers"),
                ("ece", "Calibration error (ECE), %", "stronger colour: confidence further from the truth"),
            )
            for maps, extremes in [_heat_maps(models, corrupted, key)]
            if maps
        ],
        "missing": len(corrupted) < len(models) and bool(corrupted),
        "sets": sets,
    }


def _curves(models: list[dict[str, Any]], shown: list[int]) -> list[dict[str, Any]]:
    made = []
    for key, title in (("accuracy", "Accuracy, %"), ("ece", "Calibration error (ECE), %")):
        lines = []
        for i in shown:
            points = [
                (0, dig(models[i], "clean", key)),
                *((r["severity"], r[key]) for r in models[i]["shift"]["by_severity"]),
            ]
            lines.append((i, [(s, e) for s, e in points if estimate(e) is not None]))
        severities = sorted({s for _, points in lines for s, _ in points})
        top = 100.0 if key == "accuracy" else max(5.0, *(110 * e["value"] for _, points in lines for _, e in points))
        plot = Plot((severities[0] - 0.1, severities[-1] + 0.1), (0, min(top, 100.0)), "severity (0 = clean)",
                    width=360, height=240, x_ticks=severities)  # fmt: skip
        for i, points in lines:
            x = [s for s, _ in points]
            if all(e["low"] is not None for _, e in points):
                plot.band(x, [100 * e["low"] for _, e in points], [100 * e["high"] for _, e in points], i)
        for i, points in lines:
            plot.line([s for s, _ in points], [100 * e["value"] for _, e in points], i)
        made.append({"title": title, "better": METRICS[key][2], "plot": svg(plot)})
    return made


def _heat_maps(
    models: list[dict[str, Any]], shown: list[int], key: str
) -> tuple[list[dict[str, Any]], tuple[str, str] | None]:
    """For each model rows of corruptions and columns of severities, on one scale of colour; and its ends."""
    found = {i: {(r["corruption"], r["severity"]): r.get(key) for r in models[i]["shift"]["conditions"]} for i in shown}
    values = [e["value"] for own in found.values() for e in own.values() if e is not None]
    if not values:
        return [], None
    low, high = min(values), max(values)
    maps = []
    for i, own in found.items():
        severities = sorted({severity for _, severity in own})
        rows = []
        for corruption in dict.fromkeys(c for c, _ in own):
            cells = [own.get((corruption, s)) for s in severities]
            known = [c["value"] for c in cells if c is not None]
            mean = sum(known) / len(known) if len(known) > 1 else None
            rows.append(
                {
                    "name": printable(corruption).replace("_", " "),
                    "cells": [_heat_cell(c, key, low, high) for c in cells],
                    "mean": number(mean, "%") if mean is not None else None,
                }
            )
        maps.append({"model": i, "severities": severities, "rows": rows, "means": len(severities) > 1})
    worst_first = (number(low, "%"), number(high, "%"))
    return maps, worst_first if key == "accuracy" else (worst_first[1], worst_first[0])


def _heat_cell(cell: dict[str, Any] | None, key: str, low: float, high: float) -> dict[str, str]:
    if cell is None:
        return {"text": "–", "strength": "0", "title": "not measured"}
    share = (cell["value"] - low) / ((high - low) or 1)
    strength = 1 - share if key == "accuracy" else share
    bounds = spread(cell, "%")
    title = f"{number(cell['value'], '%')} %{f' ({bounds})' if bounds else ''}"
    return {"text": number(cell["value"], "%"), "strength": f"{0.62 * strength:.2f}", "title": title}


def _sets(results: dict[str, Any], models: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each published set its record and a row for each metric."""
    made = []
    for name, record in results["shift_sets"].items():
        rows = []
        for key in _KEYS:
            label, unit, better = METRICS[key]
            cells = [estimate(dig(m, "shift_sets", name, key)) for m in models]
            if any(c is not None for c in cells):
                ahead = ahead_of(cells, better, unit) if comparable(key, cells) else ()
                rows.append(Row(printable(name), label, unit, better, cells, ahead))
        if rows:
            part = record["classes"] is not None and record["classes"] != record["of_classes"]
            made.append({"name": printable(name), "record": record, "rows": rows, "part": part})
    return made


def legend_of_heat() -> Markup:
    """The scale of the heat maps as a strip of colours."""
    return Markup("".join(f'<span style="--a:{0.62 * k / 8:.2f}"></span>' for k in range(9)))
