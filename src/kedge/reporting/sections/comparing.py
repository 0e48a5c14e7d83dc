"""Models against each other: paired tests on the same images, and mean and spread over seeds."""

from collections.abc import Iterator
from typing import Any

from kedge.metrics._base import metric as metric_called
from kedge.printable import printable
from kedge.reporting.claims import LEVEL, agreeing, compared, p_text
from kedge.reporting.rows import Number, dig, number, short, spread
from kedge.reporting.sections import ood
from kedge.reporting.sections.attack import attack_names, doubted


def numbers(results: dict[str, Any]) -> Iterator[tuple[str, list[Number]]]:
    """(the group, or the two that are compared; its numbers)."""
    for group, labels in results["group_table"].items():
        own: list[Number] = []
        for label, over in labels.items():
            own += [("seeds", key, "", "", label, over[key], over["n"]) for key in ("mean", "sd")]
        yield group, own
    for one in results["comparisons"]:
        place = ("comparison", one["where"], "", one["test"])
        difference: Number = (*place, one["metric"], one["difference"], one["n"])
        yield f"{one['a']} - {one['b']}", [difference, (*place, f"p, {one['metric']}", one["p"], one["n"])]


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The tests with their p-values after Holm, and the table of groups."""
    models = results["models"]
    attacks = attack_names(list(models.values()))
    doubtful = {name for name, model in models.items() if doubted(model)}
    doubtful |= {group for group, own in results["groups"].items() if doubtful & set(own)}

    def believable(t: dict[str, Any]) -> bool:
        return t["where"] not in attacks or not doubtful & {t["a"], t["b"]}

    tests = [
        {
            "a": short(t["a"]),
            "b": short(t["b"]),
            "what": f"{_label(t['metric'])}, {printable(t['where'])}",
            "difference": signed(t["difference"], _unit(t["metric"])),
            "spread": spread(t["difference"], _unit(t["metric"])),
            "p": p_text(t.get("p")),
            "adjusted": p_text(t["adjusted"]),
            "marked": t["adjusted"] is not None and t["adjusted"] < LEVEL and agreeing(t) and believable(t),
            "test": printable(t["test"]),
            "n": t["n"],
        }
        for t in compared(results)
    ]
    table = results["group_table"]
    labels = list(dict.fromkeys(label for metrics in table.values() for label in metrics))
    groups = [{"name": short(g), "members": [short(n) for n in results["groups"].get(g, [])]} for g in table]
    rows = [
        (_row_label(label), [_mean_sd(dig(metrics, label), label) for metrics in table.values()]) for label in labels
    ]
    kinds = [(t["metric"], t["where"], t["test"]) for t in results["comparisons"]]
    corrected = len(set(kinds)) < len(kinds)  # else each p-value is alone in its family
    unmarked = any(not believable(t) for t in results["comparisons"])
    return (
        {"tests": tests, "count": len(tests), "corrected": corrected,
         "cross_fitted": any("reported" in t for t in results["comparisons"]), "unmarked": unmarked, "groups": groups,
         "rows": rows}
        if tests or rows
        else None
    )  # fmt: skip


def _row_label(label: str) -> str:
    """Of the table of groups: `METRIC, WHERE`."""
    metric, _, where = label.partition(", ")
    return f"{_label(metric)}, {printable(where)}{', %' if _unit(metric).startswith('%') else ''}"


def _label(metric: str) -> str:
    known, of_sets = metric_called(metric), ood.compared()
    return of_sets[metric][0] if metric in of_sets else known.label if known else printable(metric)


def _unit(metric: str) -> str:
    """Shares are written in percent."""
    known = metric_called(metric)
    return known.unit if known else "%"


def signed(cell: dict[str, Any], unit: str) -> str:
    """A difference with its sign; percentage points for shares."""
    text = number(cell["value"], unit)
    return f"−{text[1:]}" if text.startswith("-") else f"+{text}"


def _mean_sd(cell: dict[str, Any] | None, label: str) -> dict[str, str]:
    if cell is None or cell["mean"] is None:
        return {"text": "–", "n": ""}
    unit = _unit(label.partition(", ")[0])
    sd = "" if cell["sd"] is None else f" ± {number(cell['sd'], unit + '%' if unit else '')}"
    return {"text": f"{number(cell['mean'], unit)}{sd}", "n": f"n = {cell['n']}" + (", no spread" if not sd else "")}
