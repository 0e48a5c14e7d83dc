"""The uniform distribution as a target: which objectives can take it."""

from typing import Any

from torch import nn


def check_takes_uniform(inner: Any, outer: str, which: str, instead: str) -> None:
    """Raise ValueError if `inner` cannot take the uniform target that `outer` gives to some images.

    `which`: what these images are called; `instead`: what to write where there are to be none.
    """
    kind = getattr(inner, "targets_kind", "soft")
    if kind != "soft":
        takes = "class indices" if kind == "indices" else "regression values"
        raise ValueError(
            f"{type(inner).__name__} takes {takes}, not the uniform distribution that {which} images are trained "
            f"to; use {instead}"
        )
    nested = _nested(inner)
    mixing = [m for m in nested if getattr(m, "mixes_targets", False)]
    if mixing:
        name = type(mixing[0]).__name__
        raise ValueError(
            f"{name} inside {outer} would mix the uniform target of {which} images into others; put it outside: "
            f"{name}({outer}(...)), where {which} images come of the mixed ones"
        )
    if any(_needs_labels(m) for m in nested):
        raise ValueError(
            f"an attack with loss='margin' inside {outer} leads away from the label, and {which} images have none; "
            f"use loss='ce', or {instead}"
        )


def _nested(inner: Any) -> list[Any]:
    """The objectives inside `inner`, itself first; a plain function is an objective too."""
    return list(inner.modules()) if isinstance(inner, nn.Module) else [inner]


def _needs_labels(objective: Any) -> bool:
    """Whether an attack inside climbs the margin of a label: of the uniform target it would be that of class 0."""
    return getattr(getattr(objective, "attack", None), "loss", None) == "margin"
