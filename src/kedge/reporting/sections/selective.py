"""Answering only when confident: risk against coverage, alone and with unfamiliar images among the questions."""

from typing import Any

from markupsafe import Markup

from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.reporting.rows import Row, ahead_of, dig, estimate, number, rows_of, short
from kedge.reporting.sections.ood import thin
from kedge.reporting.svg import Plot, svg


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The curves, clean and corrupted and with each out-of-distribution set, and their areas in numbers."""
    models = results["models"]
    entries = [m["selective"] for m in models.values()]
    classes = results["data"]["class_names"]
    rows = [
        row
        for one in metrics("selective")
        if one.unit == "%%"
        for row in rows_of(one, [dig(f, one.key) for f in entries], classes)
    ]
    for name in results["ood_sets"]:
        cells = [estimate(dig(f, "joint", name, "aurc")) for f in entries]
        if any(cell is not None for cell in cells):
            rows.append(Row("", f"AURC with {printable(name)}", "%%", "lower", cells, ahead_of(cells, "lower", "%%")))
    plots = [
        _card(models, title, [dig(f, "curve", place) for f in entries])
        for place, title in (("clean", "Clean images"), ("shift", "Corrupted images, all together"))
    ]
    joint = [
        _card(models, f"Clean images and {printable(s)}", [dig(f, "joint", s) for f in entries])
        for s in results["ood_sets"]
    ]
    plots, joint = [p for p in plots if p], [p for p in joint if p]
    if not plots and not joint:
        return None
    risk = next((r for r in (dig(f, "at_risk", "risk") for f in entries) if r is not None), None)
    return {"plots": plots, "joint": joint, "rows": rows, "risk": None if risk is None else f"{100 * risk:g} %"}


def _card(models: dict[str, Any], title: str, curves: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [(i, c) for i, c in enumerate(curves) if c and c.get("coverage")]
    if not known:
        return None
    ends = ", ".join(f"{short(name)} {number(c['risk'][-1], '%')} %"
                     for i, c in known for name in [list(models)[i]])  # fmt: skip
    return {"title": title, "aria": f"Risk against coverage, {title}; risk when all are answered: {ends}",
            "plot": risk_coverage(known)}  # fmt: skip


def risk_coverage(curves: list[tuple[int, dict[str, Any]]]) -> Markup:
    """Share of wrong answers among those given against the share of images answered, in %."""
    top = max(100 * max(c["risk"]) for _, c in curves)
    plot = Plot((0, 100), (0, max(1.0, 1.05 * top)), "answered, %", "wrong among the answered, %", width=280,
                height=220, x_ticks=[0, 20, 40, 60, 80, 100])  # fmt: skip
    for i, curve in curves:
        coverage, risk = thin(curve["coverage"], curve["risk"], 80)
        plot.line([100 * v for v in coverage], [100 * v for v in risk], i, marks=3)
    return svg(plot)
