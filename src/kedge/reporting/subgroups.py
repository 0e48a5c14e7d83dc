"""Accuracy on the curve: as a table, as files, and as a picture of each group against the majority."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kedge._version import __version__
from kedge.files import write_together
from kedge.printable import cell, printable
from kedge.reporting.page import templates
from kedge.reporting.rows import short
from kedge.reporting.svg import GLYPHS, Plot, svg

MANY = 12  # groups that a page has pictures of, the worst lines first


def subgroup_table(results: dict[str, Any]) -> str:
    """R² of the line of each group against the majority, as text."""
    lines = [f"accuracy against that on {printable(results['majority'])}, {len(results['points'])} models"]
    lines += [f"{'group':<24}{'images':>8}{'R²':>7}  {'95 % interval':<14}{'slope':>7}{'points below':>14}"]
    for name, curve in results["curves"].items():
        known = curve["r2"] is not None
        r2 = f"{curve['r2']:.2f}" if known else "–"
        interval = f"{curve['r2_low']:.2f} to {curve['r2_high']:.2f}" if curve["r2_low"] is not None else ""
        slope = "–" if curve["slope"] is None else f"{curve['slope']:.2f}"
        below = f"{100 * behind(results, name):.1f}"
        lines.append(
            f"{short(name, 22):<24}{results['groups'][name]:>8,}{r2:>7}  {interval:<14}{slope:>7}{below:>14}".rstrip()
        )
    if any(curve["r2"] is None for curve in results["curves"].values()):
        lines.append("–: all models have the same accuracy on one of the two groups")
    if aside := results["left_aside"]:
        lines.append(f"{aside:,} {'image is' if aside == 1 else 'images are'} in no group of ten images or more")
    return "\n".join(lines)


def behind(results: dict[str, Any], name: str) -> float:
    """By how much the accuracy on a group is below that on the majority, the mean over models."""
    points = [point["accuracy"] for point in results["points"]]
    return float(sum(p[results["majority"]]["value"] - p[name]["value"] for p in points) / len(points))


def write_subgroups(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write subgroups.json, subgroups.csv and subgroups.html, one page that opens without a network; their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = {"subgroups.json": text, "subgroups.csv": _csv(results), "subgroups.html": page(results)}
    return write_together({folder / name: each for name, each in files.items()})


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    worst = sorted(results["curves"], key=lambda name: (results["curves"][name]["r2"] or 0.0, name))
    rows = [
        {
            "name": short(name),
            "images": results["groups"][name],
            "behind": 100 * behind(results, name),
            **results["curves"][name],
        }
        for name in worst
    ]
    return (
        templates()
        .get_template("subgroups.html")
        .render(
            results=results,
            kedge=__version__,
            majority=short(results["majority"]),
            by=printable(results["by"]),
            data=printable(results["data"]["name"]),
            rows=rows,
            plots=[(short(name), against(results, name)) for name in worst[:MANY]],
            left_out=max(0, len(worst) - MANY),
            glyph=GLYPHS[0],
            command=printable(results["command"]),
        )
    )


def against(results: dict[str, Any], name: str) -> Markup:
    """Accuracy on the majority to the right, on a group upwards; a point for each model, the line and the diagonal."""
    points = [point["accuracy"] for point in results["points"]]
    x = [100 * point[results["majority"]]["value"] for point in points]
    y = [100 * point[name]["value"] for point in points]
    low = max(0.0, min([*x, *y]) - 3)
    plot = Plot((low, 100), (low, 100), "majority, %", "this group, %", width=320, height=270)
    plot.rule([low, 100], [low, 100])
    curve = results["curves"][name]
    if curve["slope"] is not None:
        ends = [min(x), max(x)]
        plot.line(ends, [curve["slope"] * end + 100 * curve["intercept"] for end in ends], 1, marks=0)
    plot.points(x, y, 0)
    return svg(plot)


def _csv(results: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "group", "images", "accuracy", "low", "high"])
    for point in results["points"]:
        for name, own in point["accuracy"].items():
            numbers = (f"{own[key]:.6g}" for key in ("value", "low", "high"))
            writer.writerow([cell(point["model"]), cell(name), results["groups"][name], *numbers])
    return text.getvalue()
