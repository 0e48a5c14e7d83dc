"""Images without labels: the expected accuracy, every estimate of it, and how unlike the images are."""

from collections.abc import Iterator
from typing import Any

from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Row, dig, short

UNLIKE = "told from validation images (AUROC)"
ALIKE, STRANGE = 0.6, 0.8  # AUROC of telling images from validation images: below the one alike, from the other unlike


def estimates(models: list[dict[str, Any]]) -> dict[str, list[Row]]:
    """Set of images without labels to its rows: the estimate to quote comes first, how unlike they are last."""
    entries = [dig(m, "unlabelled", "sets") or {} for m in models]
    rows: dict[str, list[Row]] = {}
    for name in dict.fromkeys(name for sets in entries for name in sets):
        own = [sets.get(name) for sets in entries]
        titles = {key: one["title"] for f in own if f for key, one in f["estimates"].items()}
        first = next(f["headline"] for f in own if f)
        values = {f"expected accuracy, {titles[key]}": [dig(f, "estimates", key) for f in own]
                  for key in sorted(titles, key=lambda key: key != first)}  # fmt: skip
        values[UNLIKE] = [dig(f, "unlike") for f in own]
        group = f"Without labels: {printable(name)}"
        rows[name] = [Row(label, "%", None, each, group) for label, each in values.items()]
    return rows


def summary(lines: Lines) -> None:
    """Of each set the estimate to quote, and how unlike the images are."""
    for rows in estimates(lines.models).values():
        for row in dict.fromkeys((0, len(rows) - 1)):
            lines.add(rows[row])


def sentences(name: str, model: dict[str, Any], results: dict[str, Any] | None = None) -> list[str]:
    """How often it is right on images without labels, as far as can be told: in whole percent, as it is about."""
    texts = []
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
        texts.append(f"{text}.")
        if (outlook := entry.get("prediction_sets")) is not None:
            careful = "careful: " if outlook["broken"] else ""
            texts.append(f"{short(name)}, {printable(images)}, prediction sets: {careful}{outlook['words']}.")
    return texts


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every estimate of every set."""
    known = dig(model, "unlabelled", "validation")
    if known is not None:
        yield "unlabelled", "validation images", "", "", "accuracy", known["accuracy"], known["images"]
    for name, entry in (dig(model, "unlabelled", "sets") or {}).items():
        for key, one in entry["estimates"].items():
            yield "unlabelled", name, "", key, "expected accuracy", one, entry["images"]
        yield "unlabelled", name, "", "knn", "auroc", entry["unlike"], entry["images"]
        for key in ("expected_accuracy", "unfamiliar"):
            share = dig(entry, "prediction_sets", key)
            yield "unlabelled", name, "", "prediction sets", key, share, entry["images"]


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The sentences, the estimates of each set side by side, and what they were fitted on."""
    models = results["models"]
    known = [dig(m, "unlabelled", "validation") for m in models.values()]
    if not any(known):
        return None
    groups = [("", [Row("accuracy on validation images", "%", None, [dig(k, "accuracy") for k in known])])]
    for name, rows in estimates(list(models.values())).items():
        groups.append((printable(name), [row for row in rows if row.measured]))
    fitted = [f"{k['images']:,} images of {printable(k['name'])} ({k['split']})" for k in known if k]
    return {
        "sentences": [words for name, model in models.items() for words in sentences(name, model)],
        "groups": groups,
        "fitted": list(dict.fromkeys(fitted)),
    }
