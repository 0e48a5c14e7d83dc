"""Prediction sets: how often they hold the true class, how large they are, and where the promise no longer holds."""

from collections.abc import Iterator
from typing import Any

from kedge.metrics._base import class_name
from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Row, dig, number, short

MANY = 30  # of more classes the page has those with the lowest coverage alone
LOST = 0.05  # a coverage that is so much lower than promised is not the promised one


def summary(lines: Lines) -> None:
    """Coverage and size, clean and corrupted, and coverage of the worst class."""
    entries = [m.get("prediction_sets") for m in lines.models]
    promised = list(dict.fromkeys(f"{100 * own['coverage']:g}" for own in entries if own))
    group = f"Prediction sets of {' and '.join(promised)} % coverage"
    for place, words in (("clean", "clean"), ("shift", "corrupted")):
        covered = [dig(own, place, "coverage") for own in entries]
        lines.add(Row(f"true class in the set, {words}", "%", None, covered, group))
        lines.add(Row(f"classes in a set, {words}", "", None, [dig(own, place, "size") for own in entries], group))
    worst = [_worst(own) for own in entries]
    notes = ["" if k is None else f"class {short(class_name(lines.class_names, k))}" for k in worst]
    cells = [None if k is None else own["clean"]["classes"][k]["coverage"]
             for own, k in zip(entries, worst, strict=True)]  # fmt: skip
    lines.add(Row("true class in the set, worst class", "%", None, cells, group, judged=False, notes=notes))


def _worst(own: dict[str, Any] | None) -> int | None:
    """The class with the lowest coverage of clean images; None for none."""
    there = [(each["coverage"]["value"], k) for k, each in enumerate(dig(own, "clean", "classes") or []) if each]
    return min(there)[1] if there else None


def _at(own: dict[str, Any] | None, severity: int, metric: str) -> Any:
    """A number at a severity."""
    rows = dig(own, "shift", "by_severity") or []
    return next((row[metric] for row in rows if row["severity"] == severity), None)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What the sets promise and what they held, and a warning where that is less."""
    own = model.get("prediction_sets")
    if own is None:
        return []
    promise, clean = f"{100 * own['coverage']:g} %", own["clean"]
    each = " of each class" if own["by_class"] else ""
    text = (
        f"Its prediction sets promise {promise}{each} (set on {own['calibration_images']:,} images): they hold the "
        f"true class of {number(clean['coverage']['value'])} % of clean images, with {clean['size']['value']:.2f} "
        "classes on average"
    )
    worst = _worst(own)
    if worst is not None:
        of_worst = clean["classes"][worst]
        text += (
            f"; of the class {printable(class_name(results['data']['class_names'], worst))} of "
            f"{number(of_worst['coverage']['value'])} %"
        )
    texts = [f"{text}."]
    if clean["outlook"]["broken"]:
        texts.append(f"Careful, without labels it shows on the clean images already: {clean['outlook']['words']}.")
    shift = own["shift"]
    if shift is not None and (covered := shift["coverage"]["value"]) is not None:
        lost = covered < own["coverage"] - LOST
        warned = sum(each["warned"] for each in shift["conditions"])
        texts.append(
            f"On corrupted images the sets hold the true class of {number(covered)} %"
            + (f": the {promise} do not hold there, they are promised for images like the calibration images alone"
               if lost else "")
            + f". Without labels kedge predict --sets would warn of {warned} of {len(shift['conditions'])} corruptions."
        )  # fmt: skip
    return texts


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Coverage and size on clean images, of each class, and on corrupted ones."""
    own, n = model["prediction_sets"], results["data"]["images"]
    if own is None:
        return
    part, score = "prediction sets", own["score"]
    yield part, "promised", "", score, "coverage", own["coverage"], own["calibration_images"]
    for metric in ("coverage", "size", "empty"):
        yield part, "clean", "", score, metric, own["clean"][metric], n
    for metric in ("expected_accuracy", "unfamiliar"):
        yield part, "clean", "", score, metric, own["clean"]["outlook"][metric], n
    for k, each in enumerate(own["clean"]["classes"]):
        for metric in ("coverage", "size"):
            where = f"class {class_name(results['data']['class_names'], k)}"
            yield part, where, "", score, metric, dig(each, metric), dig(each, "images")
    shift = own["shift"] or {"by_severity": [], "conditions": []}
    for metric in ("coverage", "size"):
        yield part, "corrupted", "", score, metric, shift.get(metric), n
        for row in shift["by_severity"]:
            yield part, "corrupted", row["severity"], score, metric, row[metric], n
        for row in shift["conditions"]:
            yield part, row["corruption"], row["severity"], score, metric, row[metric], n


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The sentences, coverage and size by severity, and by class."""
    models, names = results["models"], results["data"]["class_names"]
    entries = [m.get("prediction_sets") for m in models.values()]
    if not any(entries):
        return None
    severities = sorted({row["severity"] for own in entries for row in dig(own, "shift", "by_severity") or []})
    groups = []
    for metric, label, unit in (("coverage", "true class in the set", "%"), ("size", "classes in a set", "")):
        rows = [Row(f"{label}, clean", unit, None, [dig(own, "clean", metric) for own in entries])]
        rows += [
            Row(f"{label}, severity {s}", unit, None, [_at(own, s, metric) for own in entries]) for s in severities
        ]
        groups.append(("", [row for row in rows if row.measured]))
    lowest = {k: min((dig(own["clean"]["classes"][k], "coverage", "value") or 0.0) for own in entries if own)
              for k in range(len(names))}  # fmt: skip
    chosen = sorted(sorted(lowest, key=lowest.__getitem__)[:MANY])
    of_classes = []
    for metric, label, unit in (("coverage", "True class in the set", "%"), ("size", "Classes in a set", "")):
        rows = [
            Row(short(class_name(names, k)), unit, None,
                [dig(own["clean"]["classes"][k], metric) if own else None for own in entries], bare=True)
            for k in chosen
        ]  # fmt: skip
        of_classes.append((f"{label}{', %' if unit else ''}", [row for row in rows if row.measured]))
    told = [text for name, model in models.items() for text in sentences(name, model, results)]
    return {"sentences": told, "groups": groups, "classes": of_classes, "fewer": len(chosen) < len(names)}
