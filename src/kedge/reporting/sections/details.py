"""What some numbers are made of: lines of their own, such as one for each class, and tables of counts."""

from dataclasses import replace
from typing import Any

from kedge.metrics._base import metrics
from kedge.metrics._results import Heat
from kedge.printable import printable
from kedge.reporting.rows import rows_from, short, value_of

LEFT_OUT = 5  # from this level on


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """A block for each metric that has details: rows, and for each model its table of counts."""
    models, names = list(results["models"].values()), [printable(n) for n in results["data"]["class_names"]]
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
                    "heats": [{"model": i, **_drawn(heat)} for i, heat in heats],
                    "note": heats[0][1].note if heats else "",
                    "many": max((len(heat.columns) for _, heat in heats), default=0),
                }
            )
    return {"blocks": blocks} if blocks else None


def _drawn(heat: Heat) -> dict[str, Any]:
    """The counts with the strength of their colour; those that should be large have another one."""
    rows = []
    for r, (name, counts) in enumerate(zip(heat.rows, heat.counts, strict=True)):
        total = max(1, sum(counts))
        cells = [
            {
                "text": f"{n:,}" if n else "·",
                "strength": f"{0.62 * n / total:.2f}",
                "good": heat.good and r == c,
                "title": f"{name} → {heat.columns[c]}: {n:,} of {sum(counts):,}",
            }
            for c, n in enumerate(counts)
        ]
        rows.append({"name": short(name, 24), "cells": cells})
    return {"corner": heat.corner, "columns": [short(name, 24) for name in heat.columns], "rows": rows}
