"""Images to look at: strips of corrupted and attacked ones, and each model's mistakes and doubts, by class and cell.

A cell of the confusion matrix leads to its images without a script: following its link makes a mark the target of the
page, and style rules leave only the images of that cell. A select list of classes does the same for one class.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from kedge.printable import printable
from kedge.reporting.rows import dig, short

FEWER, NONE = 2, 3  # the levels from which fewer images are shown, and none
_LEFT = 4  # of a kind, where fewer are shown


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Strips, and for each model its images; fewer or none as `level` grows."""
    if level >= NONE:
        return None
    names = results["data"]["class_names"]
    models = [
        _model(i, model, results, names, level)
        for i, model in enumerate(results["models"].values())
        if any(model["images"].values())
    ]
    strips = [
        {
            "title": printable(strip["title"]).replace("_", " "),
            "images": [
                {"label": printable(image["label"]), "src": safe(image["thumbnail"]), "tiny": tiny(image["thumbnail"])}
                for image in strip["images"]
            ],
        }
        for strip in results["strips"]
    ]
    return {"models": models, "strips": strips} if models or strips else None


def place_of_cell(model: int, label: int, answer: int) -> str:
    """The id of the mark of a cell of a model's confusion matrix."""
    return f"m{model}t{label}p{answer}"


def shown_cells(model: dict[str, Any], names: list[str], level: int) -> dict[tuple[int, int], int]:
    """(class, answer) to how many images of this cell the page shows, at a `level` of leaving things out."""
    cells: dict[tuple[int, int], int] = {}
    for entry in _entries(model, names, level):
        if entry["cell"] is not None:
            cells[entry["cell"]] = cells.get(entry["cell"], 0) + 1
    return cells


def _entries(model: dict[str, Any], names: list[str], level: int) -> list[dict[str, Any]]:
    """Every image that is shown of a model, once."""
    if level >= NONE:
        return []
    places = {name: c for c, name in reversed(list(enumerate(names)))}
    groups = {key: own[:_LEFT] if level >= FEWER else own for key, own in model["images"].items()}
    if level >= FEWER:
        groups.pop("of_cells", None)
    entries = {}
    for kind, own in groups.items():
        for entry in own:
            label, answer = places.get(entry["label"]), places.get(entry["predicted"])
            entries[entry["index"]] = {
                **entry,
                "kind": "mistake" if not entry["correct"] else "certain" if kind == "most_certain" else "doubt",
                "cell": None if label is None or answer is None else (label, answer),
                "file": printable(entry["path"]) if entry["path"] else f"image {entry['index']}",
                "label": printable(entry["label"]),
                "predicted": printable(entry["predicted"]),
            }
    return sorted(entries.values(), key=lambda entry: -entry["confidence"])


def _model(i: int, model: dict[str, Any], results: dict[str, Any], names: list[str], level: int) -> dict[str, Any]:
    """The images of a model by kind, the marks of its cells, the classes to choose from, and the style rules."""
    entries, cells, counts = _entries(model, names, level), shown_cells(model, names, level), _counts(model, results)
    kinds = {kind: [e for e in entries if e["kind"] == kind] for kind in ("mistake", "doubt", "certain")}
    kinds["doubt"].reverse()  # the least certain first
    wrong = dig(model, "verdict", "all", "wrong")
    mistakes = "Mistakes, the most certain first"
    if wrong is not None:
        mistakes += f": {'all' if wrong == len(kinds['mistake']) else len(kinds['mistake'])} of {wrong:,}"
    titles = {"mistake": mistakes, "doubt": "Right, the least certain first", "certain": "Right and most certain"}
    classes: dict[int, int] = {}
    for (label, _), count in sorted(cells.items()):
        classes[label] = classes.get(label, 0) + count
    return {
        "model": i,
        "groups": [(titles[kind], own) for kind, own in kinds.items() if own or kind == "mistake"],
        "marks": [
            {"id": place_of_cell(i, *cell), "words": _cell_words(cell, names, shown, counts.get(cell))}
            for cell, shown in sorted(cells.items())
        ],
        "classes": [(label, short(names[label], 48), count) for label, count in classes.items()],
        "rules": _rules(i, cells, list(classes)),
    }


def _cell_words(cell: tuple[int, int], names: list[str], shown: int, count: int | None) -> str:
    label, answer = (short(names[c], 48) for c in cell)
    what = f"{label}, answered rightly" if cell[0] == cell[1] else f"{label} taken for {answer}"
    if count is None:
        return f"{what}: {shown} shown here."
    return f"{what}: {count:,} image{'s' if count != 1 else ''}, {'all' if shown >= count else shown} shown here."


def _counts(model: dict[str, Any], results: dict[str, Any]) -> Mapping[tuple[int, int], int]:
    """How many images are in the cells of the confusion matrix; of none where that was not kept."""
    counts = dig(model, "clean", "confusion", "counts")
    if counts is not None:
        return {(label, answer): n for label, row in enumerate(counts) for answer, n in enumerate(row)}
    images, answers = results["test_images"], model["answers"]
    if images is None or answers is None:
        return {}
    return Counter(zip(images["labels"], answers["predicted"], strict=True))


def _rules(i: int, cells: dict[tuple[int, int], int], classes: list[int]) -> Markup:
    """Style rules made of numbers alone: what is hidden where a cell is the target, or else a class is chosen."""
    hidden = []

    def only(where: str, these: str) -> None:
        hidden.append(f"{where} figure:not({these}),{where} .kind:not(:has({these}))")

    for label, answer in cells:
        only(f"#photos-{i}:has(#{place_of_cell(i, label, answer)}:target)", f".t{label}.p{answer}")
    for label in classes:
        only(f'#photos-{i}:not(:has(.mark:target)):has(option[value="{label}"]:checked)', f".t{label}")
    return Markup("".join(f"{rule}{{display:none}}\n" for rule in hidden))


def safe(url: Any) -> str:
    """`url` where it is an embedded image, else nothing: the page loads from nowhere."""
    return url if isinstance(url, str) and url.startswith("data:image/") else ""


def tiny(url: Any) -> bool:
    """Whether the image has so few pixels (it is a PNG then) that each should be seen."""
    return isinstance(url, str) and url.startswith("data:image/png")
