"""Stability: answers that flip under changes nobody sees, and answers kept after the object is destroyed."""

from collections.abc import Iterator
from typing import Any

from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Row, bounds, dig, number, short

RATES = {
    "oversensitive": "answers that flip under changes nobody sees",
    "overstable": "answers kept though the object is gone",
}
KINDS = {"unseen": "Changes nobody sees: answers that flip", "destroyed": "The object destroyed: answers kept at 90 %"}


def _rates(models: list[dict[str, Any]]) -> list[Row]:
    return [Row(words, "%", "lower", [dig(m, "stability", key) for m in models], "Stability")
            for key, words in RATES.items()]  # fmt: skip


def summary(lines: Lines) -> None:
    """Both rates."""
    marks = lines.marks([m["stability"] for m in lines.models], "stability", expected=False)
    for row in _rates(lines.models):
        lines.add(row, marks)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """Both rates in words, and what is to be known of them."""
    own = model["stability"]
    if own is None:
        return []
    texts = []
    if (flips := own["oversensitive"]) is not None:
        texts.append(
            f"Under changes nobody sees, {number(flips['value'])} % of its answers flip{bounds(flips)}"
            + ("" if own["overstable"] is None else "; ")
        )
    if (kept := own["overstable"]) is not None:
        texts.append(
            f"{number(kept['value'])} % of its answers are kept with a confidence of {100 * own['confidence']:g} % or "
            f"more after the object is destroyed{bounds(kept)}"
        )
    return [
        *([f"{''.join(texts)}."] if texts else []),
        *(f"{short(name)}: {printable(note)}." for note in own["notes"]),
    ]


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Both rates, and those of every change."""
    own = model["stability"] or {"changes": [], "images": None}
    for key in RATES:
        yield "stability", "", "", "", key, own.get(key), own["images"]
    for change in own["changes"]:
        for metric in ("rate", "kept", "mean_confidence"):
            yield "stability", change["name"], "", "", metric, change[metric], own["images"]


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Both rates, and every change by itself."""
    models = list(results["models"].values())
    if not any(m["stability"] for m in models):
        return None
    changes = [{each["name"]: each for each in dig(m, "stability", "changes") or []} for m in models]
    titles = {name: (each["kind"], each["title"]) for own in changes for name, each in own.items()}
    groups = [("", _rates(models))]
    for kind, words in KINDS.items():
        names = [name for name, (own, _) in titles.items() if own == kind]
        rows = [Row(titles[n][1], "%", "lower", [dig(c, n, "rate") for c in changes]) for n in names]
        if kind == "destroyed":
            rows += [
                Row(f"{titles[n][1]}, mean confidence", "%", None, [dig(c, n, "mean_confidence") for c in changes])
                for n in names
            ]
        groups.append((words, [row for row in rows if row.measured]))
    notes = [printable(note) for m in models for note in dig(m, "stability", "notes") or []]
    return {"groups": [(words, rows) for words, rows in groups if rows], "notes": list(dict.fromkeys(notes))}
