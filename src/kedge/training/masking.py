"""How the objective of a recipe, as it is written, masks references. Imports nothing slow."""

from collections.abc import Iterable
from typing import Any

__all__ = ["anchored_arguments", "masking"]


def anchored_arguments(objective: Iterable[Any] | None) -> dict[str, Any] | None:
    """What is written for `Anchored` in an objective, the outermost one; None without it."""
    for entry in objective or []:
        named = {entry: None} if isinstance(entry, str) else entry
        if "Anchored" in named:
            return dict(named["Anchored"] or {})
    return None


def masking(objective: Iterable[Any] | None) -> tuple[float, str]:
    """(share of images whose reference is masked, their target); a share of 0 where nothing is."""
    written = anchored_arguments(objective)
    if written is None:
        return 0.0, "uniform"
    return written.get("alpha", 0.25), written.get("mask_target", "uniform")  # else the defaults of the class
