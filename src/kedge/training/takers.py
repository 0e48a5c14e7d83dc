"""Which objectives of a recipe take the values that the recipe holds for them: its eps and its class weights."""

import inspect
from typing import Any

from torch import nn

from kedge import objectives
from kedge.own_code import check_allowed, imported
from kedge.training.recipe import Recipe, near

__all__ = ["Entry", "arguments_of", "entries", "objective_class", "takers"]

Entry = tuple[str, type[nn.Module], dict[str, Any]]


def entries(recipe: Recipe) -> list[Entry]:
    """The objectives of a recipe, outermost first: the name, the class and the arguments that are written there.

    Raises:
        ValueError: for a name that is none, an argument that the class does not have, or one that wraps nothing and
            is not the last.
    """
    chosen = []
    for entry in recipe.objective or ["CrossEntropy"]:
        name, arguments = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        kind = objective_class(name)
        known = arguments_of(kind)
        for key in arguments or {}:
            if key not in known:
                raise ValueError(f"objective {name} has no argument {key!r}.{near(key, known)}")
        chosen.append((name, kind, dict(arguments or {})))
    for name, kind, _ in chosen[:-1]:
        # A loss handed over as its first setting would be taken for one.
        first = next((p for p in arguments_of(kind).values() if p.kind == p.POSITIONAL_OR_KEYWORD), None)
        if first is None or (first.name != "inner" and first.default is not first.empty):
            raise ValueError(f"objective {name} wraps no other: it comes last, and {chosen[-1][0]} is after it")
    return chosen


def arguments_of(kind: type) -> dict[str, inspect.Parameter]:
    """The arguments of a class by name, in order; with **kwargs those of the class that it extends too."""
    named: dict[str, inspect.Parameter] = {}
    for each in kind.__mro__:
        own = vars(each).get("__init__")
        if own is None:
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        for parameter in parameters:
            if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                named.setdefault(parameter.name, parameter)
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return named


def takers(recipe: Recipe) -> dict[str, list[int]]:
    """The places in `entries(recipe)` of the objectives that take `eps`, and of those that take `class_weights`.

    The radius is that of the attack which an objective is written with; where none is, of every class that has an
    argument `eps`. Class weights go to every class with an argument `class_weights`. Without either value in the
    recipe both are empty.

    Raises:
        ValueError: as of `entries`; for a value that nobody takes; for class weights beside those of an objective.
    """
    listed = entries(recipe)
    names = ", ".join(name for name, _, _ in listed)
    radius: list[int] = []
    if recipe.eps is not None:
        radius = [i for i, (_, _, arguments) in enumerate(listed) if "attack" in arguments]
        radius = radius or [i for i, (_, kind, _) in enumerate(listed) if "eps" in arguments_of(kind)]
        if not radius:
            raise ValueError(
                f"eps {recipe.eps} is the radius of an attack, and the objective ({names}) has none: --config "
                "robust-finetune has one. A class of your own gets it as its argument eps"
            )
    weights: list[int] = []
    if recipe.class_weights != "none":
        weights = [i for i, (_, kind, _) in enumerate(listed) if "class_weights" in arguments_of(kind)]
        if not weights:
            raise ValueError(
                f"class_weights is {recipe.class_weights}, and nothing in the objective ({names}) weighs classes: "
                "CrossEntropy does, and a class of your own with an argument class_weights"
            )
        if written := [listed[i][0] for i in weights if listed[i][2].get("class_weights") is not None]:
            raise ValueError(
                f"class_weights is {recipe.class_weights}, and {written[0]} in the objective has class_weights of its "
                "own: leave out one of them"
            )
    return {"eps": radius, "class_weights": weights}


def objective_class(name: str) -> type[nn.Module]:
    """The class of an objective in a recipe, `module:Class` for one's own.

    Raises:
        ValueError: for a name that is none; for one's own where nothing allowed that (`kedge.own_code.allow_code`).
    """
    if ":" in name:
        check_allowed(name, "objective")
        found = imported(name, "objective")
    elif name in (known := _objective_names()):
        found = getattr(objectives, name)
    else:
        raise ValueError(
            f"no objective is named {name!r}; there are {', '.join(known)}, and module:Class for your own."
            f"{near(name, known)}"
        )
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"objective {name} is not a class of nn.Module")
    return found


def _objective_names() -> list[str]:
    bases = (objectives.Objective, objectives.Attacking)
    kinds = [n for n in objectives.__all__ if isinstance(getattr(objectives, n), type)]
    return [n for n in kinds if getattr(objectives, n) not in bases]
