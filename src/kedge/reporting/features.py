"""Features before and after a training: as a table, as files, and as pictures along the layers."""

import csv
import io
import json
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kedge._version import __version__
from kedge.files import write_together
from kedge.printable import printable
from kedge.reporting.page import templates
from kedge.reporting.rows import short
from kedge.reporting.svg import GLYPHS, Plot, svg

SIDES = ("before", "after")


def feature_table(results: dict[str, Any]) -> str:
    """A line for each layer, as text."""
    lines = [f"{'layer':<24}{'CKA':>7}  {'95 %':<13}{'rank':>7}{'→':^3}{'':<7}{'probe, %':>10}{'→':^3}"]
    for row in results["layers"]:
        cka, (old, new) = row["cka"], (row[side] for side in SIDES)
        interval = f"{cka['low']:.2f} to {cka['high']:.2f}"
        lines.append(
            f"{short(row['name'], 22):<24}{cka['value']:>7.2f}  {interval:<13}{old['effective_rank']:>7.1f} → "
            f"{new['effective_rank']:<7.1f}{100 * old['probe']['value']:>10.1f} → {100 * new['probe']['value']:.1f}"
        )
    return "\n".join(lines)


def write_features(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write features.json, features.csv and features.html, one page that opens without a network; their paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    files = {"features.json": text, "features.csv": _csv(results), "features.html": page(results)}
    return write_together({folder / name: each for name, each in files.items()})


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    rows = results["layers"]
    along = range(1, len(rows) + 1)
    ends = (1, max(2, len(rows)))

    def picture(y: tuple[float, float], label: str, series: list[list[float]]) -> Markup:
        plot = Plot(ends, y, "layer", label, x_ticks=list(along))
        for i, values in enumerate(series):
            plot.line(list(along), values, i)
        return svg(plot)

    probes = [[100 * row[side]["probe"]["value"] for row in rows] for side in SIDES]
    ranks = [[row[side]["effective_rank"] for row in rows] for side in SIDES]
    cka = [row["cka"]["value"] for row in rows]
    plots = [
        ("probe accuracy", picture((max(0, min(map(min, probes)) - 5), 100), "%", probes)),
        ("effective rank", picture((0, 1.05 * max(map(max, ranks)) or 1), "dimensions", ranks)),
        ("CKA, before with after", picture((min(0, *cka), 1), "CKA", [cka])),
    ]
    return (
        templates()
        .get_template("features.html")
        .render(
            results=results,
            kedge=__version__,
            names={side: short(results["names"][side]) for side in SIDES},
            data=printable(results["data"]["name"]),
            layers=[short(row["name"]) for row in rows],
            plots=plots,
            glyphs=[(i, GLYPHS[i], side) for i, side in enumerate(SIDES)],
            outliers=[
                (side, [(printable(o["image"]), printable(o["label"]), o["distance"]) for o in own])
                for side, own in results["outliers"].items()
            ],
            command=printable(results["command"]),
        )
    )


def _csv(results: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["layer", "measure", "model", "value", "low", "high", "n"])
    for row in results["layers"]:
        name, n = printable(row["name"]), results["images"]
        writer.writerow([name, "cka", "before, after", *(f"{row['cka'][k]:.6g}" for k in ("value", "low", "high")), n])
        for side in SIDES:
            probe = (f"{row[side]['probe'][k]:.6g}" for k in ("value", "low", "high"))
            writer.writerow([name, "effective_rank", side, f"{row[side]['effective_rank']:.6g}", "", "", n])
            writer.writerow([name, "probe", side, *probe, n])
    return text.getvalue()
