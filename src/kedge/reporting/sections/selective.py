"""Answering only when confident: risk against coverage, alone and with unfamiliar images among the questions."""

from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.rejection import in_words
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Row, dig, number, rows_of, short, summarised, value_of
from kedge.reporting.sections.ood import Place, many_sets, ood_places
from kedge.reporting.svg import Plot, svg, thin


def summary(lines: Lines) -> None:
    """Areas under the curves, and what the stored threshold does."""
    models = lines.models
    entries = [m["selective"] for m in models]
    marks = lines.marks(entries, "selective")
    group = "Answering only when confident"
    for one in summarised("selective"):
        lines.metric(group, one, [value_of(m, one) for m in models], marks)
    every = ood_places(lines.results)
    places = [place for place in every if place.is_group or not many_sets(every)]
    for place in places:
        values = [_mean(place, lambda name, own=own: dig(own, "joint", name, "aurc")) for own in entries]
        lines.add(Row(f"AURC with {place.title}", "%%", "lower", values, group))
    group = "Above the stored threshold"
    for key, words in (("clean", "clean"), ("shift", "corrupted")):
        lines.add(Row(f"answered, {words}", "%", None, [dig(own, key, "coverage") for own in entries], group))
        right = [dig(own, key, "accuracy") for own in entries]
        lines.add(Row(f"right when answered, {words}", "%", "higher", right, group))
    for place in places:
        values = [_mean(place, lambda name, m=m: dig(m, "ood", name, "accepted")) for m in models]
        lines.add(Row(f"answered, {place.title}", "%", "lower", values, group))
    group = "Answered with a label: above it, and not unknown"
    for key, words, better in (("answered", "clean", None), ("unknown", "unknown, clean", None)):
        lines.add(Row(words, "%", better, [dig(m, "refusal", "clean", key) for m in models], group))
    for place in places:
        values = [_mean(place, lambda name, m=m: dig(m, "refusal", "ood", name, "answered", "value")) for m in models]
        lines.add(Row(place.title, "%", "lower", values, group))


def _mean(place: Place, value: Any) -> float | None:
    """The mean over the sets of a place; None where one has no value."""
    values = [value(name) for name in place.sets]
    return None if None in values else sum(values) / len(values)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What single metrics say, and what the stored threshold does on clean images."""
    own = model["selective"]
    if own is None:
        return []
    texts = [one.sentence(own.get(one.key), results["data"]["class_names"]) for one in metrics("selective")]
    if own["threshold"] is not None and own["clean"] is not None:
        coverage, right = own["clean"]["coverage"], own["clean"]["accuracy"]
        texts.append(
            f"Answering only above its stored confidence threshold of {in_words(own, 2)}, it answers "
            f"{number(coverage)} % of clean images"
            + (f" and is right on {number(right)} % of those." if right is not None else ".")
        )
    if (said := model.get("refusal")) is not None:
        texts += _answers(said)
    return [sentence for sentence in texts if sentence]


def _answers(said: dict[str, Any]) -> list[str]:
    """What becomes of clean and of foreign images by both rules."""

    def share(estimate: dict[str, Any]) -> str:
        return f"{number(estimate['value'])} % [{number(estimate['low'])}, {number(estimate['high'])}]"

    own = said["clean"]
    right = f", {number(own['accuracy']['value'])} % of these rightly" if "accuracy" in own else ""
    texts = [
        f"By both of its rules, unknown where {said['rule']} and unsure below its threshold, "
        f"{share(own['answered'])} of clean images get a label{right}; {share(own['unknown'])} are unknown, "
        f"{share(own['unsure'])} unsure."
    ]
    foreign = [f"{share(each['answered'])} of {name}" for name, each in said["ood"].items()]
    return texts + (
        [f"A label is also given to {', '.join(foreign)}, which are of none of its classes."] if foreign else []
    )


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every number, with and without the stored threshold."""
    own, n = model["selective"], results["data"]["images"]
    if own is None:
        return
    for one in metrics("selective"):
        for where, metric, value in one.numbers(own.get(one.key), results["data"]["class_names"]):
            yield "selective", where or "clean", "", own["score"], metric, value, n
    for metric in ("threshold", "log_odds"):
        yield "selective", "stored", "", own["score"], metric, own[metric], None
    for place in ("clean", "shift"):
        for metric, value in (own[place] or {}).items():
            yield "selective", f"stored, {place}", "", own["score"], metric, value, n if place == "clean" else None
    for name, joint in own["joint"].items():
        yield "selective", f"with {name}", "", own["score"], "aurc", joint.get("aurc"), None


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The curves, clean and corrupted and with each out-of-distribution set, and their areas in numbers."""
    models = results["models"]
    entries = [m["selective"] for m in models.values()]
    areas = [one for one in metrics("selective") if one.unit == "%%"]
    rows = [row for one in areas for row in rows_of(one, [dig(own, one.key) for own in entries])]
    for name in results["ood_sets"]:
        values = [dig(own, "joint", name, "aurc") for own in entries]
        rows.append(Row(f"AURC with {printable(name)}", "%%", "lower", values))
    plots = [
        _card(models, title, [dig(own, "curve", place) for own in entries])
        for place, title in (("clean", "Clean images"), ("shift", "Corrupted images, all together"))
    ]
    joint = [
        _card(models, f"Clean images and {printable(name)}", [dig(own, "joint", name) for own in entries])
        for name in results["ood_sets"]
    ]
    plots, joint = [p for p in plots if p], [p for p in joint if p]
    if not plots and not joint:
        return None
    risk = next((r for r in (dig(own, "at_risk", "risk") for own in entries) if r is not None), None)
    return {"plots": plots, "joint": joint, "rows": [row for row in rows if row.measured],
            "risk": None if risk is None else f"{100 * risk:g} %"}  # fmt: skip


def _card(models: dict[str, Any], title: str, curves: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    known = [(i, c) for i, c in enumerate(curves) if c and c.get("coverage")]
    if not known:
        return None
    names = list(models)
    ends = ", ".join(f"{short(names[i])} {number(c['risk'][-1])} %" for i, c in known)
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
