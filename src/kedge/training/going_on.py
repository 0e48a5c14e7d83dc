"""The objective of a run that goes on from a trained model: what the answers of that one rest on stays."""

from collections.abc import Mapping, Sequence
from typing import Any

from kedge import catalog
from kedge.postprocess import trained_through
from kedge.specs import spelled
from kedge.training.objective import objective_class
from kedge.training.recorded import anchored_arguments, label_smoothing
from kedge.training.resolve import default_objective

__all__ = ["check_maps", "going_on", "maps_of"]

# What goes over of what is written for Anchored.
OF_ANCHORED = ("alpha", "mask_target", "mask_per", "partners", "average", "blur")


def maps_of(steps: Mapping[str, Any]) -> list[str]:
    """The objectives through whose maps of the logits a model with these `steps` was trained, such as StableMax."""
    return [catalog.class_name("objectives", step) for step in trained_through(steps)]


def going_on(
    objective: list[Any] | None,
    anchored: bool,
    maps: list[str] | None = None,
    bank_prepared: Sequence[int] = (1, 0),
) -> list[Any] | None:
    """The objective of a run that goes on from one with `objective`: masked and smoothed as that was, or not at all.

    Its loss is of the logits after the `maps` that the model was trained through, as it predicts through them, and its
    references are averaged and blurred as the bank of the model is. An attack in it is not gone on with, as that is
    asked for. None where the other run says nothing, nor the model: as anew.
    """
    average, blur = bank_prepared
    soft = {key: value for key, value, usual in (("average", average, 1), ("blur", blur, 0)) if value != usual}
    if not (objective or maps or soft):
        return None
    objective = objective or default_objective(anchored, pretrained=False)
    written = anchored_arguments(objective)
    masks = {"alpha": 0.0} if written is None else written
    masked = {**{key: value for key, value in masks.items() if key in OF_ANCHORED}, **soft}
    smoothing = label_smoothing(objective)
    loss: Any = {"CrossEntropy": {"label_smoothing": smoothing}} if smoothing else "CrossEntropy"
    return [*([{"Anchored": masked}] if anchored else []), *(maps or []), loss]


def check_maps(objective: list[Any] | None, maps: list[str], name: str) -> None:
    """Raise ValueError for an objective without one of the `maps` that the model called `name` was trained through.

    Trained without, it would start from other answers than it gives, at confidences that nothing was trained for.
    """
    named = [spelled("objectives", entry)[0] for entry in objective or []]
    for each in maps:
        places = {kind: _places(named, kind) for kind in (each, "Anchored")}
        if places[each]:
            continue
        place = places["Anchored"][-1] + 1 if places["Anchored"] else 0
        entries = ", ".join([*named[:place], each, *named[place:]])
        raise ValueError(
            f"{name} was trained through {each}, by which it predicts, and the objective ({', '.join(named)}) is "
            f"without: name it there, [{entries}], or leave the objective out. To train on without, take it out of the "
            f"model first: model.remove_step({catalog.resolve('objectives', each)!r}) of kedge.load, and kedge.save"
        )


def _places(named: list[str], kind: str) -> list[int]:
    """Where in an objective a class of kedge is named, or one's own that is made of it."""
    return [i for i, each in enumerate(named) if issubclass(objective_class(each), catalog.get("objectives", kind))]
