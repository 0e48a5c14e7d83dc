"""What a person should know of published sets beside their numbers, in sentences."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.data.image_files import NOT_READ
from kedge.data.label_spaces import about_numbers
from kedge.data.published_notes import few


def about_set(images: Any, class_names: Sequence[str]) -> list[str]:
    """Sentences on a whole set, those on classes of the models that are called by numbers first."""
    return [*about_numbers(class_names, getattr(images, "space", ())), *images.notes]


def lacking(images: Any) -> dict[str, str]:
    """Why images of a condition are not there or not read, to how many; "" where that is not counted."""
    report = getattr(images, "report", None)
    counts = torch.bincount(torch.as_tensor(images.labels), minlength=len(images.class_names))
    reasons = {}
    if empty := int((counts == 0).sum()):
        reasons["classes without images"] = f"{empty} of {len(images.class_names)}"
    if report is not None and report.skipped:
        reasons["images that cannot be read are left out"] = f"{len(report.skipped):,} of {report.total:,}"
    if report is not None and any(NOT_READ in note for note in report.notes):
        reasons[f"image files {NOT_READ} are left out"] = ""
    return reasons


def merged(conditions: Mapping[str, Mapping[str, str]]) -> list[str]:
    """One sentence for each reason, with the conditions of which images lack by it, however many there are."""
    places: dict[str, list[str]] = {}
    for name, reasons in conditions.items():
        for reason, count in reasons.items():
            places.setdefault(reason, []).append(f"{name} ({count})" if count else name)
    return [f"{reason}: {few(names)}" for reason, names in places.items()]


def published_record(
    name: str, mask: Tensor | None, measured: Sequence[Mapping[str, Any]], of_classes: int, notes: Sequence[str]
) -> dict[str, Any]:
    """What the results say of a published set; `measured` is by model what was measured of each set."""
    counts = {len(own[name]["rank"]) for own in measured if name in own}
    classes = of_classes if mask is None else len(mask)
    words = [f"answers are looked for among its {classes} classes"] if classes < of_classes else []
    return {
        "name": name,
        "images": max(counts, default=0),
        "classes": classes,
        "of_classes": of_classes,
        "note": "; ".join([*words, *notes]) or None,
    }
