"""Results as text: a table for people, JSON and CSV for programs."""

import copy
import csv
import io
import json
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kedge.reporting.files import check_results
from kedge.reporting.rows import Row, printable, summary_rows

if TYPE_CHECKING:
    from rich.table import Table

LEGEND = "↑ higher is better, ↓ lower is better; in brackets the 95 % interval."
BETTER = "◆ better than every other model here: the intervals do not overlap."
OOD_LEGEND = "Out of distribution: in-distribution is the positive class, a higher score means more in-distribution."
_LABEL, _CELL = 33, 23  # columns that a label and a model take without wrapping


def render(results: dict[str, Any], how: str = "table", width: int | None = None, color: bool = False) -> str:
    """Results as "table", "json" or "csv". Raises ValueError for another word."""
    if how == "table":
        return table(results, width, color)
    if how == "json":
        return as_json(results)
    if how == "csv":
        return as_csv(results)
    raise ValueError(f"results can be rendered as table, json or csv, not as {how!r}")


def subject_line(results: dict[str, Any]) -> str:
    """What was evaluated on, in one line."""
    data = results["data"]
    split = f" ({data['split']})" if data["split"] else ""
    count = (
        f"{data['images']:,} of {data['of']:,} images, a random subset" if data["limited"] else f"{data['of']:,} images"
    )
    return printable(f"{data['name']}{split}: {count}, {len(data['class_names'])} classes")


def table(results: dict[str, Any], width: int | None = None, color: bool = False) -> str:
    """The summary of all models side by side, `width` columns wide (default: the terminal's).

    Where not all models fit, there are several tables of some of them each; what is marked as better is so among all.
    """
    from rich.console import Console
    from rich.text import Text

    rows = summary_rows(check_results(results))
    names = list(results["models"])
    stream = io.StringIO()
    width = width or shutil.get_terminal_size((110, 24)).columns
    console = Console(file=stream, width=width, force_terminal=color, no_color=not color, highlight=False)
    console.print(Text(subject_line(results), style="bold"))
    fit = max(1, (width - _LABEL) // _CELL)
    for start in range(0, len(names), fit):
        console.print(_columns(rows, names, list(range(start, min(start + fit, len(names))))))
    legends = [LEGEND] + ([BETTER] if len(names) > 1 else []) + ([OOD_LEGEND] if results["ood_sets"] else [])
    console.print(Text(" ".join(legends), style="dim"))
    return "\n".join(line.rstrip() for line in stream.getvalue().rstrip().split("\n")) + "\n"


def _columns(rows: list[Row], names: list[str], models: list[int]) -> "Table":
    """The table of some of the models."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    made = Table(box=SIMPLE_HEAD, pad_edge=False)
    made.add_column("", overflow="fold")
    for i in models:
        made.add_column(Text(printable(names[i])), justify="right", overflow="fold")
    group = None
    for row in rows:
        if row.group != group:
            group = row.group
            made.add_row(Text(printable(group), style="bold"), *[""] * len(models))
        arrow = {"higher": "↑", "lower": "↓", None: " "}[row.better]
        unit = ", %" if row.unit == "%" else ""
        cells = []
        for i in models:
            spread = f" [{row.spread(i)}]" if row.spread(i) else ""
            text = Text(("◆ " if row.best == i else "") + row.text(i), style="bold" if row.best == i else "")
            cells.append(text.append(spread, style="dim"))
        made.add_row(Text(printable(f"{arrow} {row.label}{unit}")), *cells)
    return made


def as_json(results: dict[str, Any]) -> str:
    """All results as JSON, without the thumbnails."""
    shown = copy.deepcopy(check_results(results))
    for model in shown["models"].values():
        for entries in model["images"].values():
            for entry in entries:
                entry.pop("thumbnail", None)
    return json.dumps(shown, indent=1, allow_nan=False, ensure_ascii=False) + "\n"


def as_csv(results: dict[str, Any]) -> str:
    """One line per number, with a header: model, part, condition, score, metric, value, low, high (fractions)."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["model", "part", "condition", "score", "metric", "value", "low", "high"])
    for name, model in check_results(results)["models"].items():
        for part, condition, score, metric, found in _numbers(model):
            if found is not None:
                found = found if isinstance(found, dict) else {"value": found, "low": None, "high": None}
                writer.writerow([name, part, condition, score, metric, found["value"], found["low"], found["high"]])
    return stream.getvalue()


def _numbers(model: dict[str, Any]) -> Iterator[tuple[str, str, str, str, Any]]:
    for metric in ("accuracy", "top5", "nll", "brier", "ece"):
        yield "clean", "", "", metric, model["clean"][metric]
    shift = model["shift"]
    if shift is not None:
        places = [("mean", shift["mean"])]
        places += [(f"severity {row['severity']}", row) for row in shift["by_severity"]]
        places += [(f"{row['corruption']} {row['severity']}", row) for row in shift["conditions"]]
        for condition, row in places:
            for metric in ("accuracy", "nll", "brier", "ece"):
                yield "shift", condition, "", metric, row[metric]
    for name, found in model["ood"].items():
        for score, values in found["scores"].items():
            for metric in ("auroc", "fpr95"):
                yield "ood", name, score, metric, values[metric]
        yield "ood", name, "", "accepted", found["accepted"]
    if model["selective"] is not None:
        yield "selective", "", "", "threshold", model["selective"]["threshold"]
        for place in ("clean", "shift"):
            for metric, value in (model["selective"][place] or {}).items():
                yield "selective", place, "", metric, value
    yield "timing", "", "", "images_per_second", model["timing"]["images_per_second"]
