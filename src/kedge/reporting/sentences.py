"""The results in a few plain sentences, which claim no more than the intervals allow."""

from typing import Any

from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.rejection import in_words
from kedge.reporting.claims import comparison
from kedge.reporting.rows import dig, estimate, number, short, value_of
from kedge.reporting.summary import at_place, ood_places, score_titles, strength

__all__ = ["about", "comparison", "expected", "overconfidence"]

ALIKE, STRANGE = 0.6, 0.8  # AUROC of telling images from validation images: below the one alike, from the other unlike


def overconfidence(reliability: dict[str, list]) -> float:
    """Mean confidence minus accuracy, from a reliability diagram; positive: too sure of itself."""
    total = sum(reliability["count"])
    bins = zip(reliability["count"], reliability["confidence"], reliability["accuracy"], strict=True)
    return sum(n * (confidence - accuracy) for n, confidence, accuracy in bins if n) / total


def _leaning(reliability: dict[str, list] | None) -> str:
    if not reliability or not sum(reliability["count"]):
        return ""
    gap = overconfidence(reliability)
    if abs(gap) < 0.005:
        return ", neither too sure of itself nor too cautious on average"
    return ", too sure of itself on average" if gap > 0 else ", too cautious on average"


def about(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What one model did; `results` are of the newest format."""
    sentences = [f"{printable(e['part'])} failed: {printable(e['message'])}." for e in model["errors"]]
    clean = model["clean"]
    if clean is None:
        return [*sentences, f"{short(name)} has no results on clean images."]
    sentences = [
        f"{short(name)} is right on {number(clean['accuracy']['value'], '%')} % of clean images"
        + _bounds(clean["accuracy"])
        + (
            f"; its stated confidence differs from its accuracy by {number(clean['ece']['value'], '%')} points (ECE)"
            if clean["ece"]
            else ""
        )
        + f"{_leaning(clean['reliability'])}.",
        *sentences,
    ]
    worst = [w for m in metrics() if (w := m.sentence(value_of(model, m), results["data"]["class_names"]))]
    rest = [
        *map(printable, worst),
        *_shift(model, results),
        *_outside(model, results),
        *_attacked(model),
        *_selective(model),
    ]
    return [*sentences, *expected(name, model), *rest]


def expected(name: str, model: dict[str, Any]) -> list[str]:
    """How often it is right on images without labels, as far as can be told: in whole percent, as it is about."""
    sentences = []
    for images, entry in (dig(model, "unlabelled", "sets") or {}).items():
        cell = dig(entry, "estimates", entry["headline"])
        if cell is None:
            continue
        text = (
            f"{short(name)}, {printable(images)} ({entry['images']:,} images without labels): expected accuracy about "
            f"{100 * cell['value']:.0f} %"
        )
        if cell["low"] is not None:
            text += f" ({100 * cell['low']:.0f} to {100 * cell['high']:.0f})"
        known = dig(model, "unlabelled", "validation", "accuracy", "value")
        if known is not None:
            text += f", against {100 * known:.0f} % on validation images"
        unlike = dig(entry, "unlike", "value")
        if unlike is not None:
            kind = "like" if unlike < ALIKE else "somewhat unlike" if unlike < STRANGE else "unlike"
            text += f". To the model they look {kind} those (told apart with AUROC {100 * unlike:.0f} %)"
        sentences.append(f"{text}.")
    return sentences


def _bounds(cell: dict[str, Any]) -> str:
    if cell.get("low") is None:
        return ""
    return f" (95 % interval {number(cell['low'], '%')} to {number(cell['high'], '%')})"


def _shift(model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    sentences = []
    if model["shift"] is not None and estimate(dig(model, "shift", "mean", "accuracy")):
        last = model["shift"]["by_severity"][-1]
        sentences.append(
            f"On corrupted images it is right on {number(model['shift']['mean']['accuracy']['value'], '%')} %, with a "
            f"calibration error of {number(model['shift']['mean']['ece']['value'], '%')} points"
            f"{_leaning(model['shift']['reliability'])}"
            + (
                f"; at severity {last['severity']}, {number(last['accuracy']['value'], '%')} %."
                if len(model["shift"]["by_severity"]) > 1
                else "."
            )
        )
    for set_name, entry in model["shift_sets"].items():
        if dig(entry, "accuracy"):
            clean = model["clean"]["accuracy"]
            part = dig(results["shift_sets"], set_name, "classes") != dig(results["shift_sets"], set_name, "of_classes")
            # Fewer classes are easier: the two accuracies cannot be set against each other.
            against = " (of fewer classes)" if part else f", against {number(clean['value'], '%')} % on clean images"
            sentences.append(
                f"On {printable(set_name)} it is right on {number(entry['accuracy']['value'], '%')} %{against}."
            )
    return sentences


def _outside(model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    sentences = []
    titles = score_titles(results)
    for kind, name, sets in ood_places(results) if titles else []:
        score = next(iter(titles))
        area = dig(at_place(model, kind, name, sets), score, "auroc")
        if area is None:
            continue
        which = printable(name) if kind == "set" else f"a {name} set ({', '.join(printable(s) for s in sets)})"
        text = (
            f"Shown one familiar image and one of {which}, its {titles[score]} ranks the familiar one higher "
            f"{number(area['value'], '%')} times in 100 (50 is guessing)"
        )
        if area.get("low") is not None and area["low"] <= 0.5 <= area["high"]:
            text += ", which on so few images cannot be told from guessing"
        elif area.get("high") is not None and area["high"] < 0.5:
            text += ", worse than guessing: unfamiliar images look more familiar to it than familiar ones"
        sentences.append(text + ".")
    return sentences


def _attacked(model: dict[str, Any]) -> list[str]:
    attacks = [a for a in model["attacks"].values() if dig(a, "accuracy", "value") is not None]
    sentences = []
    if attacks:
        worst = min(attacks, key=lambda a: a["accuracy"]["value"])
        sentences.append(
            f"Under the strongest of {len(attacks)} attack{'s' if len(attacks) > 1 else ''} tried "
            f"({printable(worst['title'])}, {strength(worst, worst['title'])}) it is right on "
            f"{number(worst['accuracy']['value'], '%')} % of {worst['images']:,} images{_bounds(worst['accuracy'])}; "
            "a stronger attack can only find less."
        )
    doubts = dict.fromkeys(printable(s["check"]) for s in model["sanity"] if not s["ok"])
    if doubts:
        sentences.append(
            f"Its accuracy under attack is not to be believed as it stands ({'; '.join(doubts)}): the attack may have "
            "failed."
        )
    return sentences


def _selective(model: dict[str, Any]) -> list[str]:
    selective = model["selective"]
    sentences: list[str] = []
    if selective is None:
        return sentences
    if dig(selective, "at_risk", "risk") is not None:
        at = selective["at_risk"]
        risk = f"{100 * at['risk']:g} %"
        sentences.append(
            f"To be wrong on at most {risk} of its answers to these images, it may answer "
            f"{number(at['coverage'], '%')} % of them (above a confidence of {in_words(at, 2)}; the threshold was "
            "chosen on the same images)."
            if at["threshold"] is not None and at["coverage"]
            else f"No threshold keeps its errors on these images at {risk} or below."
        )
    clean = selective["clean"]
    if selective["threshold"] is not None and clean is not None:
        sentences.append(
            f"Answering only above its stored confidence threshold of {in_words(selective, 2)}, "
            f"it answers {number(clean['coverage'], '%')} % of clean images"
            + (
                f" and is right on {number(clean['accuracy'], '%')} % of those."
                if clean["accuracy"] is not None
                else "."
            )
        )
    return sentences
