"""Results on disk; every write goes to a temporary name first, so that a file is whole or not there."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

READS = 1  # the newest format_version of results that this version understands


def replace_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 `text` to `path` atomically, making its folder, and return the path."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        # mkstemp makes files that only their owner can read; a report is to be shared.
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(temporary, 0o666 & ~mask)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return path


def write_results(results: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the results of `kedge.evaluation.evaluate` as JSON, atomically, and return the path."""
    return replace_text(path, json.dumps(results, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read what `write_results` wrote. Raises ValueError for another kind of file or a newer format."""
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} does not hold JSON: {error}") from error
    return check_results(results, str(path))


def check_results(results: Any, where: str = "results") -> dict[str, Any]:
    """Return `results`; raise ValueError unless they are results in a format that this version reads."""
    version = results.get("format_version") if isinstance(results, dict) else None
    if not isinstance(version, int) or not isinstance(results.get("models"), dict) or not results["models"]:
        raise ValueError(f"{where}: these are not the results of kedge evaluate (no format_version or no models)")
    if version > READS:
        raise ValueError(f"{where}: format {version} is newer than the {READS} that this kedge reads: upgrade kedge")
    return results
