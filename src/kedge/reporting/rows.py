"""The rows of the summary: what is compared, which direction is better, and what may be called better."""

from dataclasses import dataclass
from typing import Any

Estimate = dict[str, float | None]
MANY_CLASSES = 20  # from here on top-5 says something


@dataclass(frozen=True)
class Row:
    """One line of the summary.

    Attributes:
        group: what it was measured on.
        label: what was measured.
        unit: "%", "points", "" or "/s".
        better: "higher", "lower" or None.
        cells: per model, in order, an estimate (value, low, high) or None.
        best: index of the model whose interval is apart from all others on the better side, or None.
    """

    group: str
    label: str
    unit: str
    better: str | None
    cells: list[Estimate | None]
    best: int | None = None

    def text(self, i: int) -> str:
        """The value of model `i` for people; a dash when there is none."""
        cell = self.cells[i]
        return "–" if cell is None else number(cell["value"], self.unit)

    def spread(self, i: int) -> str:
        """The 95 % interval of model `i` for people; empty when there is none."""
        cell = self.cells[i]
        if cell is None or cell.get("low") is None:
            return ""
        return f"{number(cell['low'], self.unit)}–{number(cell['high'], self.unit)}"


def number(value: float | None, unit: str) -> str:
    """A number in the precision that its unit deserves."""
    if value is None:
        return "–"
    if unit == "%":
        return f"{100 * value:.1f}"
    if unit == "/s":
        return f"{value:,.0f}" if value >= 10 else f"{value:.1f}"
    return f"{value:,.0f}" if unit == "count" else f"{value:.3f}"


def printable(text: Any) -> str:
    """Text without control characters, which could write anywhere on a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(text))


def short(name: Any, most: int = 36) -> str:
    """A printable name with its middle left out where it is longer than `most`."""
    text = printable(name)
    return text if len(text) <= most else f"{text[: most // 2]}…{text[-most // 2 + 1 :]}"


def best_of(cells: list[Estimate | None], better: str | None, unit: str) -> int | None:
    """The model whose 95 % interval lies wholly on the better side of every other one's, or None.

    A difference that vanishes in the printed precision of `unit` is no difference.
    """
    bounds = [(c["low"], c["high"]) if c is not None and c.get("low") is not None else None for c in cells]
    for i, own in enumerate(bounds):
        others = [(cells[j], bounds[j]) for j in range(len(cells)) if j != i]
        if better is None or own is None or not others:
            continue
        if all(b is not None and _apart(own, b, better) for _, b in others):
            texts = [number(c["value"], unit) for c, _ in others if c is not None]
            return None if number(cells[i]["value"], unit) in texts else i  # type: ignore[index]
    return None


def _apart(own: tuple[Any, Any], other: tuple[Any, Any], better: str) -> bool:
    return own[0] > other[1] if better == "higher" else own[1] < other[0]


def summary_rows(results: dict[str, Any]) -> list[Row]:
    """The summary of all models, in reading order; rows that no model has a value for are left out."""
    models = list(results["models"].values())
    rows: list[Row] = []

    def add(group: str, label: str, unit: str, better: str | None, values: list[Any]) -> None:
        cells = [_estimate(v) for v in values]
        if any(c is not None for c in cells):
            rows.append(Row(group, label, unit, better, cells, best_of(cells, better, unit)))

    places = [("Clean images", [m["clean"] for m in models]), *shift_groups(results)]
    for n, (group, found) in enumerate(places):
        add(group, "accuracy", "%", "higher", [p["accuracy"] for p in found])
        if n == 0 and len(results["data"]["class_names"]) >= MANY_CLASSES:
            add(group, "top-5 accuracy", "%", "higher", [p["top5"] for p in found])
        add(group, "calibration error (ECE)", "%", "lower", [p["ece"] for p in found])
        add(group, "NLL", "", "lower", [p["nll"] for p in found])
        add(group, "Brier score", "", "lower", [p["brier"] for p in found])
    titles = {score: found["title"] for m in models for score, found in m["scores"].items()}
    for name in results["ood_sets"]:
        for score, title in titles.items():
            values = [m["ood"].get(name, {}).get("scores", {}).get(score, {}) for m in models]
            for label, key, better in (("AUROC", "auroc", "higher"), ("FPR95", "fpr95", "lower")):
                add(f"Out of distribution: {name}", f"{label}, {title}", "%", better, [v.get(key) for v in values])
    group = "Above the stored threshold"
    for place, words in (("clean", "clean"), ("shift", "corrupted")):
        add(group, f"answered, {words}", "%", None, [_selective(m, place, "coverage") for m in models])
        add(group, f"right when answered, {words}", "%", "higher", [_selective(m, place, "accuracy") for m in models])
    for name in results["ood_sets"]:
        add(group, f"answered, {name}", "%", "lower", [m["ood"].get(name, {}).get("accepted") for m in models])
    add("Cost", "images per second", "/s", None, [m["timing"]["images_per_second"] for m in models])
    add("Cost", "parameters", "count", None, [m["parameters"] for m in models])
    return rows


def shift_groups(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(name, metrics of each model) for the mean over corruptions, and the highest severity when there are several."""
    settings, models = results["settings"], list(results["models"].values())
    count, severities = len(settings["corruptions"]), settings["severities"]
    if not count:
        return []
    means = [m["shift"]["mean"] for m in models]
    if len(severities) == 1:
        return [(f"Corrupted ({count} kind{'s' if count > 1 else ''}, severity {severities[0]})", means)]
    return [
        (f"Corrupted (mean of {count} × {len(severities)})", means),
        (f"Corrupted, severity {severities[-1]}", [m["shift"]["by_severity"][-1] for m in models]),
    ]


def _selective(model: dict[str, Any], place: str, key: str) -> float | None:
    found = (model["selective"] or {}).get(place)
    return None if found is None else found[key]


def _estimate(value: Any) -> Estimate | None:
    if value is None or isinstance(value, dict):
        return value
    return {"value": float(value), "low": None, "high": None}
