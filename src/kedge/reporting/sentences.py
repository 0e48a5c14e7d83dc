"""The results in a few plain sentences, which claim no more than the intervals allow."""

from typing import Any

from kedge.reporting.rows import best_of, number, printable, short


def overconfidence(reliability: dict[str, list]) -> float:
    """Mean confidence minus accuracy, from a reliability diagram; positive: too sure of itself."""
    total = sum(reliability["count"])
    bins = zip(reliability["count"], reliability["confidence"], reliability["accuracy"], strict=True)
    return sum(n * (confidence - accuracy) for n, confidence, accuracy in bins if n) / total


def _leaning(gap: float) -> str:
    if abs(gap) < 0.005:
        return "neither too sure of itself nor too cautious on average"
    return "too sure of itself on average" if gap > 0 else "too cautious on average"


def about(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What one model did."""
    clean = model["clean"]
    said = [
        f"{short(name)} is right on {number(clean['accuracy']['value'], '%')} % of clean images; its stated "
        f"confidence differs from its accuracy by {number(clean['ece']['value'], '%')} points (ECE), "
        f"{_leaning(overconfidence(clean['reliability']))}."
    ]
    if model["shift"] is not None:
        last = model["shift"]["by_severity"][-1]
        said.append(
            f"On corrupted images it is right on {number(model['shift']['mean']['accuracy']['value'], '%')} %, with a "
            f"calibration error of {number(model['shift']['mean']['ece']['value'], '%')} points, "
            f"{_leaning(overconfidence(model['shift']['reliability']))}"
            + (
                f"; at severity {last['severity']}, {number(last['accuracy']['value'], '%')} %."
                if len(model["shift"]["by_severity"]) > 1
                else "."
            )
        )
    for set_name, found in model["ood"].items():
        if found["scores"]:
            score = max(found["scores"], key=lambda s: found["scores"][s]["auroc"]["value"])
            said.append(
                f"Shown one familiar image and one of {printable(set_name)}, its best score here "
                f"({model['scores'][score]['title']}) ranks the familiar one higher "
                f"{number(found['scores'][score]['auroc']['value'], '%')} times in 100 (50 is guessing)."
            )
    if model["selective"] is not None:
        kept = model["selective"]["clean"]
        said.append(
            f"Answering only above its stored confidence threshold of {model['selective']['threshold']:.2f}, "
            f"it answers {number(kept['coverage'], '%')} % of clean images"
            + (f" and is right on {number(kept['accuracy'], '%')} % of those." if kept["accuracy"] is not None else ".")
        )
    return said


def comparison(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(question, what can be claimed between models); nothing for one model."""
    names = [short(n) for n in results["models"]]
    models = list(results["models"].values())
    if len(models) < 2:
        return []
    questions = [
        ("Accuracy on clean images", "higher", [m["clean"]["accuracy"] for m in models]),
        ("Calibration error on clean images", "lower", [m["clean"]["ece"] for m in models]),
    ]
    if results["settings"]["corruptions"]:
        questions += [
            ("Accuracy on corrupted images", "higher", [m["shift"]["mean"]["accuracy"] for m in models]),
            ("Calibration error on corrupted images", "lower", [m["shift"]["mean"]["ece"] for m in models]),
        ]
    for set_name in results["ood_sets"]:
        # The same score for every model: choosing each model's best after the fact would flatter.
        areas = [m["ood"].get(set_name, {}).get("scores", {}).get("msp", {}).get("auroc") for m in models]
        if all(a is not None for a in areas):
            questions.append((f"Telling {printable(set_name)} apart by confidence (AUROC)", "higher", areas))
    return [(words, _claim(better, cells, names)) for words, better, cells in questions]


def _claim(better: str, cells: list[dict[str, Any]], names: list[str]) -> str:
    values = [c["value"] for c in cells]
    order = sorted(range(len(values)), key=values.__getitem__, reverse=better == "higher")
    listed = ", ".join(f"{names[i]} {number(values[i], '%')} %" for i in order[:4]) + (", …" if len(order) > 4 else "")
    if any(c["low"] is None for c in cells):
        return f"{listed}. No intervals were computed, so no difference is claimed."
    best = best_of(list(cells), better, "%")
    last = best_of(list(cells), "lower" if better == "higher" else "higher", "%")
    if best is not None:
        return f"{names[best]} is best ({listed})."
    if last is not None:
        return f"{names[last]} is behind ({listed}); the others are too close to call."
    return f"too close to call ({listed})."
