"""The objective of a recipe: checked before anything is read, then built with what the run knows."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kedge import catalog, data, specs
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.data.batches import check_sampler
from kedge.data.sets import size_of
from kedge.epsilon import parse_epsilon
from kedge.objectives._weights import balanced_weights
from kedge.probing.heads import layer_of_classes
from kedge.samplers import make_sampler
from kedge.samplers._base import draws_of
from kedge.specs import Part
from kedge.training.nested import methods
from kedge.training.recipe import Recipe

# What a run knows, by the names of the arguments that get it.
KNOWN = ("labels", "classes", "num_classes", "seed", "class_weights", "start_model", "new_head")

__all__ = [
    "check_objective",
    "equal_classes",
    "images_of",
    "make_objective",
    "objective_class",
    "streams_of",
    "written",
]


def written(recipe: Recipe) -> list[list[Part]]:
    """The objectives of a recipe, outermost first, each with what its arguments are built from; nothing is built.

    Raises:
        ValueError: for a name that is none, an argument that a class does not have, or an objective that wraps nothing
            and is not the last.
    """
    listed = [specs.parts("objectives", entry) for entry in with_radius(recipe)]
    for each, *_ in listed:
        _check_class(each.name, each.method)
    for each, *_ in listed[:-1]:
        # A loss handed over as its first setting would be taken for one.
        first = next((p for p in each.arguments.values() if p.kind == p.POSITIONAL_OR_KEYWORD), None)
        if first is None or (first.name != "inner" and first.default is not first.empty):
            after = listed[-1][0].name
            raise ValueError(f"objective {each.name} wraps no other: it comes last, and {after} is after it")
    return listed


def check_objective(
    recipe: Recipe, extra: Mapping[str, Any] | None = None, models: Mapping[str, nn.Module] | None = None
) -> None:
    """Raise ValueError for what could only fail after data is read.

    That is what `written` refuses, a value of the recipe that no objective takes, a temperature that one needs, several
    processes where an objective is for one, and streams of further images that are missing or that nobody takes.

    Args:
        recipe: the recipe.
        extra: further images in memory by name, in place of those that the recipe names.
        models: models in memory, by the name of the argument that takes them.
    """
    nested = written(recipe)
    listed = [part for parts in nested for part in parts]
    # Another objective is handed to all but the innermost; one that lacks it is told so when it is made.
    inside = {id(part): int(part is not nested[-1][0] or "inner" in part.arguments) for part, *_ in nested}
    names = ", ".join(part.name for part in listed if part.room == "objectives")
    takers = [part.name for part in listed if "class_weights" in part.arguments]
    if recipe.class_weights != "none":
        if not takers:
            raise ValueError(
                f"class_weights is {recipe.class_weights}, and nothing in the objective ({names}) weighs classes: "
                "CrossEntropy does, and a class of your own with an argument class_weights"
            )
        if own := [part.name for part in listed if part.values.get("class_weights") is not None]:
            raise ValueError(
                f"class_weights is {recipe.class_weights}, and {own[0]} in the objective has class_weights of its "
                "own: leave out one of them"
            )
    if not recipe.temperature and (scaled := [p.name for p in listed if getattr(p.method, "needs_temperature", False)]):
        raise ValueError(
            f"the softmax of what {scaled[0]} trains is no probability, so that confidences, rejection and calibration "
            "would mean nothing: say temperature: true, on the command line --temperature true: one is fitted then"
        )
    alone = [part.name for part in listed if getattr(part.method, "one_process", False)]
    if alone and (recipe.world > 1 or recipe.compile):
        what = "compile" if recipe.compile else f"{recipe.world} devices"
        raise ValueError(
            f"objective {alone[0]} is for one process and a model that is not compiled, and the recipe says {what}: "
            "leave one of the two out"
        )
    for name in models or {}:
        if not any(name in part.arguments for part in listed):
            raise ValueError(
                f"models has a {name}, and nothing in the objective ({names}) has an argument of that name"
            )
    for part in listed:
        if missing := part.missing(inside.get(id(part), 0), {*KNOWN, *(models or {})}):
            words = part.say_missing(missing)
            if nn.Module in part.kinds.get(missing[0], ()):
                words += (
                    f", the name of a run, a model folder or timm/NAME; from Python also fit(..., "
                    f"models={{{missing[0]!r}: model}})"
                )
            raise ValueError(words)
    there = [*dict.fromkeys([*recipe.extra, *(extra or {})])]
    for part in listed:
        for stream in streams_of(part.method):
            if stream not in there:
                raise ValueError(
                    f"objective {part.name} needs {stream} beside the training images, and extra names "
                    f"{', '.join(there) or 'none'}: say extra: {{{stream}: FOLDER}}, on the command line --extra "
                    f"'{{{stream}: FOLDER}}'"
                )
    needed = {stream for part in listed for stream in streams_of(part.method)}
    for stream in there:
        if stream not in needed:
            what = f"it takes {', '.join(sorted(needed))}" if needed else "OutlierExposure takes outliers"
            raise ValueError(f"extra names {stream}, and nothing in the objective ({names}) takes that: {what}")


def make_objective(
    recipe: Recipe,
    train: ImageSet,
    models: Mapping[str, nn.Module] | None = None,
    load_model: Callable[[str], nn.Module] | None = None,
    start: nn.Module | None = None,
) -> nn.Module:
    """Nest the objectives that the recipe lists, the innermost last, with what the run knows for those that ask.

    Arguments of these names that the recipe leaves out are filled in: `labels` of an epoch's images `[M]`, `classes`,
    their names, `num_classes`, `seed`, `class_weights` where the recipe balances classes, and `start_model`, the
    trained model that the run trains on from, where there is one, and `new_head`, its last layer's name inside the
    network, where that is new as with published weights.

    Args:
        recipe: the recipe.
        train: the training images.
        models: models in memory, by the name of the argument that takes them, in place of what is written there.
        load_model: makes a model of what a recipe calls it; None: models can only come from `models`.
        start: the trained model that the run trains on from, as it is now; None where it starts from new weights.

    Raises:
        ValueError: as of `written`; for an objective that cannot be made with its arguments.
    """
    labels = train.labels if recipe.sampler == Recipe.sampler else drawn_labels(recipe, train)
    known = {"labels": labels, "classes": train.class_names, "num_classes": len(train.class_names)}
    known |= {"seed": recipe.seed} | ({} if start is None else {"start_model": start}) | dict(models or {})
    if isinstance(start, PixelModel) and recipe.pretrained:
        known["new_head"] = layer_of_classes(start)
    if recipe.class_weights == "balanced":
        known["class_weights"] = balanced_weights(labels, len(train.class_names))
    builders: dict[type, Callable[[Any], Any]] = {Dataset: lambda value: images_of(train, value)}
    if load_model is not None:
        builders[nn.Module] = load_model
    objective: nn.Module | None = None
    for part, *_ in reversed(written(recipe)):
        values = {key: value for key, value in part.values.items() if key not in (models or {})}
        if objective is None and "inner" in part.arguments and "inner" not in values:
            raise ValueError(f"objective {part.name} wraps another objective: name one after it")
        inner = () if objective is None else (objective,)
        objective = specs.build("objectives", {part.name: values}, *inner, builders=builders, **known)
    assert objective is not None
    return objective


def drawn_labels(recipe: Recipe, train: ImageSet) -> Tensor:
    """The labels of an epoch's images `[M]`, which a sampler can have drawn.

    Raises:
        DataError: for a sampler that cannot draw from the set.
        ValueError: for class weights or an objective that would correct what the sampler has corrected.
    """
    sampler = make_sampler(recipe.sampler)
    check_sampler(train, sampler)
    labels = train.labels[draws_of(sampler, train.labels, 0, recipe.seed)]
    if _evened(train.labels, labels) and (twice := _equal_classes(recipe)) is not None:
        raise ValueError(
            f"sampler {methods('sampler', recipe.sampler)[0][0]} draws every class equally often, and {twice}: one of "
            "the two is enough, leave out the other"
        )
    return labels


def equal_classes(recipe: Recipe, train: ImageSet) -> bool:
    """Whether a recipe makes every class count the same, by class weights, its objective or its sampler."""
    if _equal_classes(recipe) is not None:
        return True
    # The usual sampler draws each image once.
    return recipe.sampler != Recipe.sampler and _evened(train.labels, drawn_labels(recipe, train))


def _evened(there: Tensor, drawn: Tensor) -> bool:
    """Whether classes that are unequal among the labels `there` are drawn equally often, give or take one."""
    counts, draws = (torch.bincount(each, minlength=int(there.max()) + 1) for each in (there, drawn))
    counts, draws = counts[counts > 0], draws[counts > 0]
    return bool(draws.max() - draws.min() <= 1 < counts.max() - counts.min())


def _equal_classes(recipe: Recipe) -> str | None:
    """What in a recipe, beside its sampler, makes every class count the same, in words; None where nothing does."""
    if recipe.class_weights == "balanced":
        return "class_weights balanced weighs them so"
    inside = [part.name for parts in written(recipe) for part in parts if getattr(part.method, "equal_classes", False)]
    return f"objective {inside[0]} corrects for how often they come" if inside else None


def images_of(train: ImageSet, value: Any) -> Any:
    """The images that an argument of an objective names: `{classes, n, seed}` of the training images, or a set's name.

    Raises:
        ValueError: for another mapping; DataError for a set that is not there.
    """
    if isinstance(value, Mapping):
        if set(value) - {"classes", "n", "seed"}:
            raise ValueError(f"images of the training set are named by classes, n and seed, not {sorted(value)}")
        return data.reference_subset(train.sample, **value)
    return data.load_images(value, "train", size_of(train.image_shape), train.image_shape[0])


def objective_class(name: str) -> type[nn.Module]:
    """The class of an objective in a recipe, `module:Class` for one's own.

    Raises:
        ValueError: for a name that is none; for one's own where nothing allowed that (`kedge.own_code.allow_code`).
    """
    return _check_class(name, catalog.get("objectives", name))


def streams_of(method: Any) -> tuple[str, ...]:
    """The names of the further images that an objective of this class needs in each step."""
    return tuple(getattr(method, "streams", ()))


def with_radius(recipe: Recipe) -> list[Any]:
    """The objectives as the recipe lists them, its `eps` in place of that of their attacks.

    Where none has an attack, it is that of every class with an argument `eps`.

    Raises:
        ValueError: for a radius that nobody takes.
    """
    entries = list(recipe.objective or ["CrossEntropy"])
    if recipe.eps is None:
        return entries
    places = [specs.spelled("objectives", entry) for entry in entries]
    inside = [i for i, (_, values) in enumerate(places) if "attack" in values]
    if inside:
        for i in inside:
            name, values = places[i]
            entries[i] = {name: {**values, "attack": _attack_with(values["attack"], recipe.eps)}}
        return entries
    own = [i for i, (name, _) in enumerate(places) if "eps" in catalog.arguments(objective_class(name))]
    if not own:
        names = ", ".join(name for name, _ in places)
        raise ValueError(
            f"eps {recipe.eps} is the radius of an attack, and the objective ({names}) has none: --config "
            "robust-finetune has one. A class of your own gets it as its argument eps"
        )
    for i in own:
        entries[i] = {places[i][0]: {**places[i][1], "eps": parse_epsilon(recipe.eps)}}
    return entries


def _attack_with(spec: Any, eps: str) -> Any:
    """An attack as a recipe names it, with another radius; a step that was written is as large a share of that one."""
    name, values = specs.spelled("attacks", spec)
    number = parse_epsilon(eps)
    if (before := values.get("eps")) and values.get("step_size") is not None:
        values["step_size"] = parse_epsilon(values["step_size"], "step_size") * number / parse_epsilon(before)
    return {name: {**values, "eps": number}}


def _check_class(name: str, method: Any) -> type[nn.Module]:
    if not (isinstance(method, type) and issubclass(method, nn.Module)):
        raise ValueError(f"objective {name} is not a class of nn.Module")
    return method
