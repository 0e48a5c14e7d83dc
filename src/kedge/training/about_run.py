"""What a report says of how a model was trained: from the files of its run, as one record that JSON takes."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kedge.training.folder import RunFolder
from kedge.training.record import ImageRecord
from kedge.training.recorded import recorded

__all__ = ["about_run"]

POINTS = 200  # of a curve
_RECIPE = (
    "model", "pretrained", "init_from", "image_size", "augment", "objective", "optimizer", "lr", "schedule", "epochs",
    "batch_size", "seed",
)  # fmt: skip
_CURVES = ("epoch", "lr", "train_loss", "val_accuracy")


def about_run(run: Path) -> dict[str, Any]:
    """How the model in the folder of a run was trained.

    Returns:
        `folder`, the `data` it names, how many `images` and `validation_images`, `classes`: training images of each,
        `repeated`: how many training images had been there before, bit for bit; whether they were `photos`
        (`ImageRecord.photos`); `seconds` of its epochs, when it `finished`, of its `recipe` what is most asked for, the
        record of its linear `probe`, `validation` as in run.json, and `curve`: lists of equal length by column of
        metrics.csv, of long runs some epochs. None: not known.

    Raises:
        ValueError: for a run whose files cannot be read.
    """
    folder = RunFolder(run)
    facts, recipe, rows = folder.facts(), recorded(run), folder.rows()
    counts = facts.get("data") or {}
    classes, record = counts.get("classes"), ImageRecord.read(run)
    keys = [] if record is None else [key for key in record.trained if key]
    data = recipe.get("data")
    return {
        "folder": run.as_posix(),
        "data": None if data is None else Path(str(data)).name,
        "images": counts.get("train"),
        "validation_images": counts.get("val"),
        "classes": None if record is None or not classes else record.of_classes(len(classes)),
        "repeated": None if record is None else len(keys) - len(set(keys)),
        "photos": None if record is None else record.photos,
        "seconds": sum(row.get("seconds", 0.0) for row in rows) or None,
        "finished": facts.get("finished"),
        "recipe": {key: recipe[key] for key in _RECIPE if recipe.get(key) not in (None, [], {})},
        "probe": facts.get("probe"),
        "validation": facts.get("validation"),
        "curve": _curve(rows),
    }


def _curve(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    step = max(1, -(-len(rows) // POINTS))
    some = [row for i, row in enumerate(rows) if i % step == 0 or i == len(rows) - 1]
    return {key: [_finite(row.get(key)) for row in some] for key in _CURVES} if some else {}


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def known_runs(runs: Mapping[str, Path | None]) -> dict[str, dict[str, Any]]:
    """`about_run` of the models, by name, that belong to a run whose files can be read."""
    known = {}
    for name, run in runs.items():
        try:
            if run is not None:
                known[name] = about_run(run)
        except (OSError, ValueError):  # a page without it is better than none
            continue
    return known
