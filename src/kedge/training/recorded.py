"""What was written of a run: its recipe and its facts, as mappings, whichever version of kedge wrote them."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kedge.catalog import class_name
from kedge.json_text import read_json
from kedge.specs import spelled
from kedge.training.recipe import Recipe, values_of
from kedge.training.recipe_checks import check_objectives

__all__ = ["anchored_arguments", "label_smoothing", "masking", "read_run", "recorded", "recorded_facts"]

# What run.json holds under these names are records of their own.
_RECORDS = (
    "given", "recipe", "code", "digests", "data", "cost", "validation", "reject", "unknown", "negatives", "steps",
    "adaptation", "robust", "probe", "folds", "unreadable", "leaks",
)  # fmt: skip


def recorded(run: Path | None) -> dict[str, Any]:
    """What the recipe in a run folder holds; empty if there is none.

    Keys of other versions are left as they are. Raises ValueError, in words, for what is no recipe.
    """
    if run is None or not (path := run / "recipe.yaml").is_file():
        return {}
    values = Recipe.typed(values_of(path), f"{path}: ")
    check_objectives(values.get("objective"), f"{path}: ")
    return values


def recorded_facts(run: Path) -> dict[str, Any]:
    """What run.json in a run folder holds, NaN where an earlier version wrote that.

    Raises ValueError, in words, for what is no such record, OSError if there is none.
    """
    facts = read_json(run / "run.json", nan=True)
    for key in _RECORDS:
        if not isinstance(facts.get(key), dict | None):
            raise ValueError(f"{run / 'run.json'}: {key} is a mapping, not {str(facts[key])[:80]!r}: it was changed")
    return facts


def read_run(run: Path | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """(recipe, run.json) of a run folder; empty where there is none."""
    there = run is not None and (run / "run.json").is_file()
    return recorded(run), recorded_facts(run) if run is not None and there else {}


def anchored_arguments(objective: Iterable[Any] | None) -> dict[str, Any] | None:
    """What is written for `Anchored` in an objective, the outermost one; None without it."""
    for entry in objective or []:
        name, written = spelled("objectives", entry)
        if class_name("objectives", name) == "Anchored":  # `anchored` is written too
            return written
    return None


def label_smoothing(objective: Iterable[Any] | None) -> float:
    """The label smoothing that is written in an objective; 0 without."""
    settings = (written or {} for entry in objective or [] if isinstance(entry, dict) for written in entry.values())
    return next((float(each["label_smoothing"]) for each in settings if "label_smoothing" in each), 0.0)


def masking(objective: Iterable[Any] | None) -> tuple[float, str]:
    """(share of images whose reference is masked, their target); a share of 0 where nothing is."""
    written = anchored_arguments(objective)
    if written is None:
        return 0.0, "uniform"
    return written.get("alpha", 0.25), written.get("mask_target", "uniform")  # else the defaults of the class
