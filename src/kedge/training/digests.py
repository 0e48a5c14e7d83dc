"""What vouches for a run when it goes on: digests of its recipe, its images and its checkpoint, written as it runs."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from kedge.files import write_text
from kedge.own_code import sources
from kedge.regular import file_digest, read_text
from kedge.training.may_change import PLACES
from kedge.training.nested import code_of
from kedge.training.recipe import Recipe

__all__ = ["checkpoint_digests", "plain", "recipe_digest", "settle", "stamp", "vouch"]

RUN_FORMAT = 1  # raised when a run of before can no longer be continued to what it would have become
SIDECAR = ".sha256"  # last.ckpt.sha256: of last.ckpt, and of the one before it


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
    told = {k: v for k, v in plain(recipe).items() if k not in PLACES and v != usual.get(k)}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


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
