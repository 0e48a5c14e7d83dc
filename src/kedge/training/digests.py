"""What a run is known by when it goes on: what of its recipe may change, and digests of all else, written as it runs.

docs/decisions/resume.md says why.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedge import catalog
from kedge.files import write_text
from kedge.own_code import sources
from kedge.regular import file_digest, read_text
from kedge.training.nested import code_of, methods
from kedge.training.objective import written
from kedge.training.recipe import Recipe

__all__ = [
    "MAY_CHANGE",
    "PLACES",
    "checkpoint_digests",
    "may_grow",
    "plain",
    "recipe_digest",
    "settle",
    "stamp",
    "vouch",
]

RUN_FORMAT = 1  # raised when a run of before can no longer be continued to what it would have become
SIDECAR = ".sha256"  # last.ckpt.sha256: of last.ckpt, and of the one before it
# Another machine, another place, other bars: what the run learns does not depend on them, but for rounding.
MAY_CHANGE = ("device", "devices", "nodes", "workers", "shard", "cache", "cache_gb", "runs", "name", "gate")
# In recipe.yaml also where the images are now: which they are is told by their content.
PLACES = (*MAY_CHANGE, "data", "extra")


def may_grow(recipe: Recipe, epochs: int | None) -> bool:
    """Whether a run may go on to more `epochs` than its recipe says: where none of it depends on how many there are.

    That is, a schedule in epochs, with a warm-up in epochs, and no part of the objective that follows the progress.
    """
    if epochs is None or recipe.epochs is None or epochs <= recipe.epochs:
        return False
    if code_of(vars(recipe)) or recipe.unfreeze or recipe.warmup is None or 0 < recipe.warmup < 1:
        return False
    if "steps" in catalog.argument_names("optim.schedules", methods("schedule", recipe.schedule)[0][0]):
        return False
    return not any(
        part.values.get(key, parameter.default)
        for parts in written(recipe)
        for part in parts
        for key, parameter in part.arguments.items()
        if key in ("hold", "ramp", "stages", "warmup")
    )


def stamp(recipe: Recipe, images: Path) -> dict[str, Any]:
    """What run.json says for later: the recipe as it is run, and digests of it, of the images and of own code."""
    return {
        "run_format": RUN_FORMAT,
        "recipe": plain(asdict(recipe)),
        "code": sources(code_of(vars(recipe))),
        "digests": {
            "recipe": recipe_digest(asdict(recipe)),
            "images": file_digest(images) if images.exists() else None,
        },
    }


def recipe_digest(recipe: dict[str, Any]) -> str:
    """Hex digits for a recipe, given as a mapping, without what may change and what is as usual."""
    usual = plain(asdict(Recipe()))
    decides = {k: v for k, v in plain(recipe).items() if k not in PLACES and v != usual.get(k)}
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """Values as JSON gives them back, in which form those of two recipes are compared."""
    read: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return read


def vouch(checkpoint: Path, written: Path) -> None:
    """Say beside `checkpoint` what it will be: `written`, which is about to take its place, or still the one it is.

    Before the checkpoint itself, so that a process that is killed between the two leaves nothing unvouched for.
    """
    before = checkpoint_digests(checkpoint)[:1] if checkpoint.is_file() else []
    write_text(_sidecar(checkpoint), "\n".join([file_digest(written), *before]) + "\n")


def settle(checkpoint: Path) -> None:
    """Say beside `checkpoint` what it is, and nothing else."""
    write_text(_sidecar(checkpoint), f"{file_digest(checkpoint)}\n")


def checkpoint_digests(checkpoint: Path) -> list[str]:
    """The digests that a checkpoint may have; none where nothing says."""
    try:
        return read_text(_sidecar(checkpoint), 10_000).split()
    except (OSError, ValueError):
        return []


def _sidecar(checkpoint: Path) -> Path:
    return checkpoint.with_name(f"{checkpoint.name}{SIDECAR}")
