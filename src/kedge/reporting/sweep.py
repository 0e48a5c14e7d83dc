"""Models on the line between two models: as a table, as files, and as a picture of one accuracy against another."""

import csv
import io
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kedge.epsilon import print_epsilon
from kedge.files import write_together
from kedge.printable import printable
from kedge.reporting.page import templates
from kedge.reporting.svg import GLYPHS, Plot, svg

COLUMNS = ("clean", "shifted", "pgd", "mean")  # in this order, as far as they were measured


def sweep_table(results: dict[str, Any]) -> str:
    """The rows of a sweep as text, in per cent, with the picked one marked."""
    columns = measured(results)
    lines = ["alpha" + "".join(f"{title(results, name):>10}" for name in columns)]
    for row in results["rows"]:
        cells = "".join(f"{100 * row[name]:10.1f}" for name in columns)
        lines.append(f"{row['alpha']:5.2f}{cells}{_remark(results, row['alpha'])}".rstrip())
    return "\n".join(lines)


def write_sweep(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write sweep.json, sweep.csv and sweep.html, one page that opens without a network; their paths."""
    folder = Path(folder)
    text = json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    return write_together(
        {folder / "sweep.json": text, folder / "sweep.csv": _csv(results), folder / "sweep.html": page(results)}
    )


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    columns = measured(results)
    others = [name for name in columns if name in ("shifted", "pgd")]
    return (
        templates()
        .get_template("sweep.html")
        .render(
            results=results,
            eps=print_epsilon(results["attack"]["eps"]) if results["attack"] else None,
            names={key: printable(results[key]) for key in ("a", "b")},
            columns=[(name, title(results, name)) for name in columns],
            plots=[(title(results, name), against(results, name)) for name in others],
            lines=along(results),
            glyphs=[(i, GLYPHS[i], title(results, name)) for i, name in enumerate(columns)],
        )
    )


def measured(results: dict[str, Any]) -> list[str]:
    """Which of the columns there are."""
    return [name for name in COLUMNS if name in results["rows"][0]]


def title(results: dict[str, Any], name: str) -> str:
    """What a column is called."""
    return str(results["attack"]["title"]) if name == "pgd" and results["attack"] else name


def against(results: dict[str, Any], name: str) -> Markup:
    """Clean accuracy to the right, `name` upwards; a point for each alpha in their order, dashed from end to end."""
    rows = results["rows"]
    x, y = [100 * row["clean"] for row in rows], [100 * row[name] for row in rows]
    plot = _Marked(_range(x), _range(y), "clean accuracy, %", f"{title(results, name)}, %", width=360, height=270)
    plot.rule([x[0], x[-1]], [y[0], y[-1]])
    plot.line(x, y, 0)
    picked = results["picked"]["alpha"]
    for row, at, up in zip(rows, x, y, strict=True):
        if row["alpha"] == picked:
            plot.ring(at, up)
    for alpha in dict.fromkeys((0.0, 1.0, picked)):
        for row, at, up in zip(rows, x, y, strict=True):
            if row["alpha"] == alpha:
                plot.label(at, up, f"{alpha:g}")
    return svg(plot)


def along(results: dict[str, Any]) -> Markup:
    """Every accuracy against alpha, with a rule at the picked one."""
    rows, columns = results["rows"], measured(results)
    x = [row["alpha"] for row in rows]
    every = [100 * row[name] for row in rows for name in columns]
    low, high = _range(every)
    plot = _Marked((min(x), max(x) if max(x) > min(x) else 1), (low, high), "α", "%", width=360, height=270)
    picked = results["picked"]["alpha"]
    plot.rule([picked, picked], [low, high])
    for i, name in enumerate(columns):
        plot.line(x, [100 * row[name] for row in rows], i)
    return svg(plot)


class _Marked(Plot):
    """A plot with a ring and a number at some points."""

    def ring(self, x: float, y: float) -> None:
        """A circle round the point."""
        self._parts.append(f'<circle class="o" cx="{self._across(x):.1f}" cy="{self._down(y):.1f}" r="6.5"/>')

    def label(self, x: float, y: float, text: str) -> None:
        """A number beside the point, on the side where there is room."""
        across, down = self._across(x), self._down(y)
        right = across < self._right - 30
        self._text(across + (9 if right else -9), down - 6 if down > self._top + 14 else down + 14, text,
                   "" if right else "e")  # fmt: skip


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Whole numbers a little outside of `values`, which are in per cent."""
    low, high = min(values), max(values)
    room = max(0.06 * (high - low), 0.5)
    return max(0.0, math.floor(low - room)), min(100.0, math.ceil(high + room))


def _remark(results: dict[str, Any], alpha: float) -> str:
    words = [f"picked by {results['picked']['by']}"] if alpha == results["picked"]["alpha"] else []
    words += [printable(results[end]) for end, at in (("a", 0), ("b", 1)) if alpha == at]
    return f"   {', '.join(words)}" if words else ""


def _csv(results: dict[str, Any]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, [*results["rows"][0], "picked"], lineterminator="\n")
    writer.writeheader()
    for row in results["rows"]:
        picked = int(row["alpha"] == results["picked"]["alpha"])
        writer.writerow({**{k: f"{v:.6g}" for k, v in row.items()}, "picked": picked})
    return text.getvalue()
