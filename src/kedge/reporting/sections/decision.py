"""The first screen: what a model is, whether it can be used, the worst things about it, and what to do next."""

import shlex
from typing import Any

from kedge.gate import PASS, needed, overall, verdicts
from kedge.gate.measured import of_shares
from kedge.metrics._base import class_name, leading
from kedge.metrics.accuracy_by_class import worst_class
from kedge.printable import printable
from kedge.reporting.rows import dig, estimate, number, short, spread
from kedge.reporting.sections.images import place_of_cell, shown_cells

TAILS = {
    "all": "usable on its own",
    "half": "usable with a person for the rest",
    "none": "not usable yet",
    "unclear": "too few images to say whether it is usable",
}
_CLASSES = 8  # that are named


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The verdict on each model and what it rests on; None where no model was measured on clean images."""
    entries = [
        {"model": i, **verdict_words(model), "facts": facts(name, i, model, results, level)}
        for i, (name, model) in enumerate(results["models"].items())
        if model["clean"] is not None
    ]
    risks = [dig(m, "verdict", "risk") for m in results["models"].values()]
    risk = next((r for r in risks if r is not None), None)
    return {"entries": entries, "risk": risk} if entries else None


def rule(part: dict[str, Any] | None) -> str:
    """How verdicts come about."""
    if part is None or part["risk"] is None:
        return ""
    risk = f"{100 * part['risk']:g} %"
    return (
        f"Usable: no more than {risk} wrong among the half of the images it is more certain of, or among all to be so "
        f"on its own, with a confidence of 95 % (exact binomial bound); not usable: more than {risk} wrong even there. "
        "--risk sets another share."
    )


def verdict_words(model: dict[str, Any]) -> dict[str, str]:
    """The verdict in a sentence (`words` and what it comes to, `tail`), its `kind`, and what it rests on (`ground`)."""
    own = model["verdict"]
    if model["trained_on"]:
        words = f"It was trained on {model['trained_on']:,} of these images"
        return {"words": words, "tail": "no verdict", "kind": "unclear", "ground": ""}
    if own is None:
        return {"words": "", "tail": "", "kind": "unclear", "ground": ""}
    if own["kind"] == "few":
        words = f"{own['all']['images']:,} images say nothing about whether it can be used"
        return {"words": words, "tail": "no verdict", "kind": "unclear", "ground": ""}
    risk, coverage = f"{100 * own['risk']:g} %", dig(model, "selective", "at_risk", "coverage")
    if not coverage:
        words = f"It can answer none of these images with at most {risk} wrong; all go to a person"
    elif coverage >= 1:
        words = f"At no more than {risk} wrong it answers every image"
    else:
        words = f"At {risk} wrong it answers {number(coverage)} % of images; the rest go to a person"
    half, every = own["half"], own["all"]
    ground = (
        f"Wrong on {half['wrong']:,} of the {half['images']:,} images it is most certain of, and on {every['wrong']:,} "
        f"of all {every['images']:,}."
    )
    if own["kind"] == "unclear" and (count := _would_tell(own)):
        ground += f" About {count:,} images would tell, if the rates stay as they are."
    return {"words": words, "tail": TAILS[own["kind"]], "kind": own["kind"], "ground": ground}


def _would_tell(own: dict[str, Any]) -> int | None:
    """How many images would make the verdict clear at these rates; None where a million would not."""
    counts = []
    for part in (own["half"], own["all"]):
        share = part["wrong"] / part["images"]
        measured = of_shares({"": (share, part["images"])}, lowest=False, images=own["all"]["images"])
        if measured is not None and (part is own["half"] or share < own["risk"]):  # of all, too many say nothing
            counts.append(needed(measured, own["risk"], "lower"))
    return min((count for count in counts if count is not None), default=None)


def facts(name: str, i: int, model: dict[str, Any], results: dict[str, Any], level: int) -> list[dict[str, str]]:
    """What the first screen says of a model, line by line: `label`, `text`, and where there are some `note`, `link`."""
    lines = [
        _line("What it is", _subject(model, results)),
        _accuracy(model, results),
        _worst_class(model, results),
        _worst_confusion(i, model, results, level),
        _worst_corruption(name, model, results),
        _foreign(name, model, results),
        _gate(name, model, results),
        _line("To deploy it", code=_export(name, model)) if dig(model, "training") else None,
    ]
    return [line for line in lines if line is not None]


def _export(name: str, model: dict[str, Any]) -> str:
    """The command whose file takes what the images were: a photo of any size, or an array of pixels."""
    return f"kedge export {_place(name, model)} {'--input photo' if dig(model, 'training', 'photos') else '--to onnx'}"


def majority(model: dict[str, Any], results: dict[str, Any]) -> tuple[str, float] | None:
    """(class, accuracy) of always answering the class with most training images, or test images where those are not
    known."""
    images = dig(model, "clean", "accuracy_by_class", "images")
    if not images or not sum(images):
        return None
    counts = dig(model, "training", "classes")
    counts = counts if counts and len(counts) == len(images) else images
    most = counts.index(max(counts))
    return short(class_name(results["data"]["class_names"], most), 24), images[most] / sum(images)


def _line(label: str, text: str = "", note: str = "", link: str = "", code: str = "") -> dict[str, str]:
    return {"label": label, "text": text, "note": note, "link": link, "code": code}


def _subject(model: dict[str, Any], results: dict[str, Any]) -> str:
    names = results["data"]["class_names"]
    more = f", … ({len(names):,})" if len(names) > _CLASSES else ""
    kind = f"{model['kind']} " if model["kind"] in ("anchored", "plain") else ""
    size = "" if model["parameters"] is None else f", {model['parameters'] / 1e6:.1f} M parameters"
    classes = ", ".join(short(n, 24) for n in names[:_CLASSES])
    return f"{kind}{printable(model['network'])}{size}; classes: {classes}{more}"


def _accuracy(model: dict[str, Any], results: dict[str, Any]) -> dict[str, str] | None:
    cell = estimate(dig(model, "clean", leading("clean").key))
    if cell is None:
        return None
    interval = f" (95 % interval {spread(cell)})" if spread(cell) else ""
    notes, probe = [], dig(model, "training", "probe", "accuracy")
    if always := majority(model, results):
        word, share = always
        notes.append(f"always answering {word}: {number(share)} %{_against(cell, share)}")
    if probe is not None:
        count = dig(model, "training", "validation_images")
        of = f" of {count:,} validation images" if count else " of the validation images"
        notes.append(f"a linear probe of the network before training: {number(probe)} %{of}")
    note = "; ".join(notes)
    text = f"right on {number(cell['value'])} % of {results['data']['images']:,} images{interval}"
    return _line("How good", text, note[:1].upper() + note[1:] + "." if note else "")


def _against(cell: dict[str, Any], share: float) -> str:
    """What an interval says of a share that it should lie above; "" where it does, or there is none."""
    if cell.get("low") is None or cell["low"] > share:
        return ""
    return ", which is better" if cell["high"] < share else ", which these images do not show it to beat"


def _worst_class(model: dict[str, Any], results: dict[str, Any]) -> dict[str, str] | None:
    own = dig(model, "clean", "accuracy_by_class")
    if not own or len([n for n in own["images"] if n]) < 2:
        return None
    name = short(worst_class(own, results["data"]["class_names"]), 36)
    interval = f" ({spread(own)})" if spread(own) else ""
    text = f"{name}: right on {number(own['value'])} % of {own['images'][own['worst']]:,}{interval}"
    note = "The interval counts that it was picked as the lowest." if interval else ""
    return _line("Worst class", text, note, link="details")


def _worst_confusion(i: int, model: dict[str, Any], results: dict[str, Any], level: int) -> dict[str, str] | None:
    own = dig(model, "clean", "confusion")
    if not own:
        return None
    if not own["largest"]:
        return _line("Worst confusion", "none: no answer was wrong")
    pair, names = own["largest"][0], results["data"]["class_names"]
    label, answer = (short(class_name(names, pair[key]), 36) for key in ("label", "predicted"))
    place = (pair["label"], pair["predicted"])
    link = place_of_cell(i, *place) if place in shown_cells(model, names, level) else "details"
    return _line("Worst confusion", f"{label} taken for {answer}: {pair['count']:,} of {pair['of']:,}", link=link)


def _worst_corruption(name: str, model: dict[str, Any], results: dict[str, Any]) -> dict[str, str] | None:
    key = leading("clean").key
    cells = [(estimate(row.get(key)), row) for row in dig(model, "shift", "conditions") or []]
    known = [(cell["value"], row) for cell, row in cells if cell is not None]
    if not known:
        if results["settings"]["corruptions"] or not dig(model, "training"):
            return None
        return _line("Worst corruption", "not measured:", code=f"kedge evaluate {_place(name, model)}")
    value, row = min(known, key=lambda each: each[0])
    kinds = len({row["corruption"] for _, row in known})
    words = printable(row["corruption"]).replace("_", " ")
    of = f" (lowest of {kinds} kinds)" if kinds > 1 else ""
    text = f"{words}, severity {row['severity']}: right on {number(value)} %{of}"
    if lost := _not_measured(model, results):
        text += f"; {lost} could not be measured"
    return _line("Worst corruption", text, link="shift")


def _not_measured(model: dict[str, Any], results: dict[str, Any]) -> str:
    """The corruptions, with their severities, that broke off; "" for none."""
    kinds = results["settings"]["corruptions"] or ()
    parts = (str(error["part"]) for error in model["errors"])
    lost = [printable(part).replace("_", " ") for part in parts if part.partition(" ")[0] in kinds]
    return ", ".join(lost[:3]) + (f" and {len(lost) - 3} more" if len(lost) > 3 else "")


def _foreign(name: str, model: dict[str, Any], results: dict[str, Any]) -> dict[str, str] | None:
    """How many images of no class are answered with a label, of the set where most are."""
    answered = {each: dig(shares, "answered") for each, shares in (dig(model, "refusal", "ood") or {}).items()}
    if not answered:
        if results["ood_sets"] or not dig(model, "training"):
            return None
        return _line("Images of no class", "not measured:", code=f"kedge evaluate {_place(name, model)} --ood FOLDER")
    most = max(answered, key=lambda each: answered[each]["value"])
    of = f", the most of {len(answered)} sets" if len(answered) > 1 else ""
    if lost := [short(each, 36) for each in results["ood_sets"] if each not in model["ood"]]:
        of += f"; {', '.join(lost)} could not be measured"
    cell = answered[most]
    text = f"{number(cell['value'])} % of {short(most, 36)} are answered with a label ({spread(cell)}){of}"
    return _line("Images of no class", text, link="outside")


def _gate(name: str, model: dict[str, Any], results: dict[str, Any]) -> dict[str, str] | None:
    """Whether the model meets the bars of its recipe, where that has some, else how to set one."""
    if dig(model, "training") is None:
        return None
    if not model.get("gate"):
        return _line("Gate", "none set:", code=f"kedge check {_place(name, model)} --min-accuracy 0.9")
    judged = [each for each in verdicts(results) if each.model == name]
    open_ones = [each for each in judged if each.verdict != PASS]
    return _line("Gate", f"{overall(judged)}: {'; '.join(each.sentence for each in open_ones or judged)}")


def _place(name: str, model: dict[str, Any]) -> str:
    """The model as a command takes it."""
    return shlex.quote(printable(dig(model, "training", "folder") or name))
