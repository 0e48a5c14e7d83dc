"""Results on disk."""

import json
import os
import re
from pathlib import Path
from typing import Any

from kedge.files import write_text
from kedge.json_text import read_json
from kedge.reporting.formats import NEWEST, upgrade

# A list of numbers over several lines: curves and histograms, which a line holds as well. JSON has no line break inside
# a string, so none is taken for a list.
MOST_ANSWERS = 1_000_000  # of all models to single images; of more, images.csv alone has them: readers take 100 MB
_NUMBER = r"(?:-?[0-9][0-9.eE+-]*|null)"
_NUMBERS = re.compile(rf"\[\n\s*{_NUMBER}(?:,\n\s*{_NUMBER})*\n\s*\]")


def write_results(results: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the results of `kedge.evaluation.evaluate` as JSON, atomically, and return the path."""
    return write_text(path, results_text(results))


def results_text(results: dict[str, Any]) -> str:
    """What `write_results` writes."""
    count = sum(len((model.get("answers") or {}).get("predicted", ())) for model in results["models"].values())
    if count > MOST_ANSWERS:
        models = {name: {**model, "answers": None} for name, model in results["models"].items()}
        results = {**results, "test_images": None, "models": models}
    text = json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False)
    return _NUMBERS.sub(lambda match: " ".join(match[0].split()), text) + "\n"


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_results` wrote, also by an earlier version.

    Raises ValueError for another kind of file or format.
    """
    results = read_json(path)
    try:
        return check_results(results, str(path))
    except (AttributeError, KeyError, TypeError) as error:  # of what stands where another kind of value belongs
        raise ValueError(
            f"{path}: these are not the results of kedge evaluate, or they were changed ({error})"
        ) from error


def check_results(results: Any, where: str = "results") -> dict[str, Any]:
    """`results` with every key; raise ValueError unless they are results that this version reads."""
    version = results.get("format_version") if isinstance(results, dict) else None
    if not isinstance(version, int) or not isinstance(results.get("models"), dict) or not results["models"]:
        raise ValueError(f"{where}: these are not the results of kedge evaluate (no format_version or no models)")
    if version > NEWEST:
        raise ValueError(f"{where}: format {version} is newer than the {NEWEST} that this kedge reads: upgrade kedge")
    if version < NEWEST:
        raise ValueError(f"{where}: format {version} is older than the first release of kedge: evaluate again")
    return upgrade(results)
