"""Which evaluation of a run is that of its model as it is now."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kedge.clock import is_before
from kedge.printable import printable
from kedge.reporting.files import read_results

__all__ = ["evaluation_of", "generated", "on_validation", "shift_notes"]


def evaluation_of(
    run: Path | None, steps: Sequence[str], facts: dict[str, Any], changed: bool = False
) -> tuple[dict[str, Any] | None, str]:
    """The newest results in `run`/evaluation, -2, ... with its model alone in them, and their file; else None, and why.

    Those on test images come before all that are on validation images. What was expected of images without labels is
    left out: it is no measurement, and its names are those of folders of the user.

    Args:
        run: the run folder; None: there are none.
        steps: those of the model as it is now, in words (`Model.describe_steps`).
        facts: what run.json holds.
        changed: take also an evaluation of the model with other steps.
    """
    why = ""
    files = [] if run is None else [(path, read_results(path)) for path in run.glob("evaluation*/results.json")]
    files.sort(key=lambda each: (not on_validation(each[1]), str(each[1]["created"])), reverse=True)
    for path, results in files:
        own = [name for name in results["models"] if run is not None and name == run.resolve().name]
        own = own or (list(results["models"]) if len(results["models"]) == 1 else [])
        if not own:
            continue
        measured = results["models"][own[0]]
        if is_before(results["created"], facts.get("finished")):
            why = why or "the last evaluation is older than the training"
        elif not changed and measured["steps"] != list(steps):
            then = ", ".join(measured["steps"]) or "no temperature"
            why = why or f"the last evaluation was of the model with {then}, before that changed"
        else:
            alone = {own[0]: {**measured, "unlabelled": None}}
            return {**results, "models": alone, "groups": {}, "comparisons": []}, str(path)
    return None, why or "this model was not evaluated"


def generated(results: dict[str, Any]) -> bool:
    """Whether corrupted images were made by kedge, and are no published files."""
    return results["settings"].get("shift_source") in (None, "generated")


def shift_notes(results: dict[str, Any]) -> Iterator[tuple[str, list[Any]]]:
    """Sentences on each published set of corrupted images. Raises TypeError for results that hold anything else."""
    for name, own in results["shift_notes"].items():
        if not isinstance(own, list):
            raise TypeError(f"shift_notes of {printable(name)} is a {type(own).__name__}, not a list")
        yield name, own


def on_validation(results: dict[str, Any]) -> bool:
    """Whether results are of validation images, by which a model is chosen and its reject threshold set."""
    return bool(results["data"]["split"] == "val")
