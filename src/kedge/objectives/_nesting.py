"""Objectives round an inner one: the base of those, and what may be inside of what."""

from typing import Any, ClassVar

from torch import nn

from kedge.objectives._base import Objective


class Wrapper(Objective):
    """Base of the objectives round an inner one, whose kind of targets they take.

    Attributes:
        inner: the objective that gets what this one makes of model, images and targets.
        classifies: whether an inner objective for regression is refused.
        maps_logits: whether the inner objective sees other logits than the model puts out, so that one that takes its
            logits from layers inside the model (`reads_layers`) is refused.
        reads_logits: whether it reads logits itself, so that an inner objective that maps them is refused.
    """

    classifies: ClassVar[bool] = False
    maps_logits: ClassVar[bool] = False
    reads_logits: ClassVar[bool] = False

    def __init__(self, inner: Objective) -> None:
        """Raises TypeError where `inner` is no objective: a name, or a class that is not called yet."""
        super().__init__()
        name = type(self).__name__
        if isinstance(inner, type):
            raise TypeError(f"{name} takes an objective, got the class {inner.__name__}: {inner.__name__}() makes one")
        if not callable(inner):
            raise TypeError(f"{name} takes an objective, got {inner!r}")
        self.targets_kind = targets_kind(inner)
        if self.classifies and self.targets_kind == "values":
            raise ValueError(f"{name} is for classification; {type(inner).__name__} is not")
        if self.reads_logits and (mapping := [m for m in nested(inner) if getattr(m, "maps_logits", False)]):
            other = type(mapping[0]).__name__
            raise ValueError(
                f"{other} inside {name}, which reads the logits too, would map them for one of the two; "
                f"put it outside: {other}({name}(...))"
            )
        if self.maps_logits and (reading := [m for m in nested(inner) if getattr(m, "reads_layers", False)]):
            raise ValueError(
                f"{type(reading[0]).__name__} inside {name} takes its logits from layers inside the model, which "
                f"{name} does not map: the model would predict through a map that it is not trained through; leave "
                f"{name} out"
            )
        self.inner: Any = inner


def targets_kind(objective: Any) -> str:
    """What targets an objective takes, see `Objective`; a plain function takes soft ones."""
    return str(getattr(objective, "targets_kind", "soft"))


def check_same_images(inner: Any, outer: str) -> None:
    """Raise ValueError for an inner objective that changes images: `outer` compares answers for the ones it got."""
    for each in nested(inner):
        if getattr(each, "changes_images", False):
            name = type(each).__name__
            instead = f"put it outside: {name}({outer}(...))" if hasattr(each, "inner") else "leave one of the two out"
            raise ValueError(f"{name} inside {outer} would change the images; {instead}")


def check_takes_soft(inner: Any, outer: str) -> None:
    """Raise ValueError for an inner objective that takes no probabilities as targets, which `outer` makes."""
    if targets_kind(inner) == "indices":
        raise ValueError(
            f"{type(inner).__name__} takes class indices, and {outer} makes probabilities of them: put an objective "
            "inside that takes soft targets, such as CrossEntropy"
        )


def check_takes_uniform(inner: Any, outer: str, which: str, instead: str) -> None:
    """Raise ValueError if `inner` cannot take the uniform target that `outer` gives to some images.

    `which`: what these images are called; `instead`: what to write where there are to be none.
    """
    kind = targets_kind(inner)
    if kind != "soft":
        takes = "class indices" if kind == "indices" else "regression values"
        raise ValueError(
            f"{type(inner).__name__} takes {takes}, not the uniform distribution that {which} images are trained "
            f"to; use {instead}"
        )
    every = nested(inner)
    mixing = [m for m in every if getattr(m, "mixes_targets", False)]
    if mixing:
        name = type(mixing[0]).__name__
        raise ValueError(
            f"{name} inside {outer} would mix the uniform target of {which} images into others; put it outside: "
            f"{name}({outer}(...)), where {which} images come of the mixed ones"
        )
    if any(_needs_labels(m) for m in every):
        raise ValueError(
            f"an attack with loss='margin' inside {outer} leads away from the label, and {which} images have none; "
            f"use loss='ce', or {instead}"
        )


def nested(inner: Any) -> list[Any]:
    """The objectives inside `inner`, itself first; a plain function is an objective too."""
    return list(inner.modules()) if isinstance(inner, nn.Module) else [inner]


def _needs_labels(objective: Any) -> bool:
    """Whether an attack inside climbs the margin of a label: of the uniform target it would be that of class 0."""
    return getattr(getattr(objective, "attack", None), "loss", None) == "margin"
