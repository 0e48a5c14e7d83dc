"""What some numbers are made of: lines of their own, such as one for each class, and tables of counts."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kedge.metrics._base import metrics
from kedge.metrics._results import Heat
from kedge.printable import printable
from kedge.reporting.rows import rows_from, short, value_of
from kedge.reporting.sections.images import place_of_cell, shown_cells

LEFT_OUT = 5  # from this level on
MANY = 30  # rows of a table from which it is folded


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """A block for each metric that has details: rows, and for each model its table of counts."""
    models, names = list(results["models"].values()), [printable(n) for n in results["data"]["class_names"]]
    links = [shown_cells(model, results["data"]["class_names"], level) for model in models]
    blocks = []
    for one in metrics() if level < LEFT_OUT else ():
        values = [value_of(model, one) for model in models]
        heats = [(i, heat) for i, value in enumerate(values) if (heat := one.heat(value, names)) is not None]
        rows = [row for row in rows_from(one.details(values, names), one, values) if row.measured]
        if rows or heats:
            blocks.append(
                {
                    "title": one.title or one.label,
                    "words": one.words,
                    "rows": [replace(row, bare=True) for row in rows],
                    "head": "%" if rows and rows[0].unit.startswith("%") else "",
                    "heats": [{"model": i, **_drawn(heat, i, links[i])} for i, heat in heats],
                    "note": heats[0][1].note if heats else "",
                    "links": any(heat.classes and links[i] for i, heat in heats),
                    "open": len(rows) <= MANY,
                }
            )
    return {"blocks": blocks} if blocks else None


def _drawn(heat: Heat, model: int, shown: Mapping[tuple[int, int], int]) -> dict[str, Any]:
    """The counts with the strength of their colour; those that should be large have another one.

    A cell of which the page has images leads to them.
    """
    rows = []
    for r, (name, counts) in enumerate(zip(heat.rows, heat.counts, strict=True)):
        total = heat.totals[r] if heat.totals else sum(counts)
        cells = []
        for c, n in enumerate(counts):
            pair = (heat.classes[r], heat.classes[c]) if heat.classes else None
            title = f"{name} → {heat.columns[c]}: {n:,} of {total:,}"
            cells.append(
                {
                    "text": f"{n:,}" if n else "·",
                    "strength": f"{0.62 * n / max(1, total):.2f}",
                    "good": heat.good and r == c,
                    "title": title + (f", {shown[pair]} shown" if pair is not None and pair in shown else ""),
                    "link": place_of_cell(model, *pair) if pair is not None and pair in shown else "",
                }
            )
        rows.append({"name": short(name, 24), "cells": cells})
    return {"corner": heat.corner, "columns": [short(name, 24) for name in heat.columns], "rows": rows}
