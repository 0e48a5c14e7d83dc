"""Where a run starts from: published weights, or a model that was trained before; what that decides of the recipe."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import timm

from kedge import checkpoint, networks
from kedge.anchoring import PixelModel, anchor, choose_references
from kedge.checkpoint import read_config
from kedge.checks import unlike_classes
from kedge.data import ImageSet, derive_seed
from kedge.data.folders import same_place
from kedge.epsilon import parse_ball, print_ball
from kedge.hub import PREFIX, download, split_name
from kedge.named_model import TIMM, has_weights, model_folder, run_of
from kedge.own_code import near_names
from kedge.postprocess import trained_through
from kedge.training.going_on import check_maps, going_on, maps_of
from kedge.training.recipe import Recipe, held_by
from kedge.training.recorded import recorded, recorded_facts

__all__ = [
    "check_start",
    "find_start",
    "inherit",
    "load_start",
    "start_run",
    "started",
    "trained_eps",
    "with_network",
    "with_steps",
    "without_steps",
]

OF = ("the data", "the model")


def inherit(recipe: Recipe) -> Recipe:
    """Fill in what init_from decides before data is read: data, size, augmentation, classes and the images held out.

    Of a run on the same data the validation images are held out again: the model never saw them.

    Raises:
        FileNotFoundError: if init_from is neither a model nor a name of timm.
        ValueError: if what the recipe says contradicts it.
    """
    if recipe.weights is not None and (recipe.init_from is not None or recipe.pretrained is False):
        other = "pretrained: false" if recipe.init_from is None else f"init_from {recipe.init_from}"
        raise ValueError(f"weights {recipe.weights} and {other} contradict each other: leave one out")
    if recipe.init_from is None:
        anchored = True if recipe.anchored is None else recipe.anchored
        return replace(recipe, data=recipe.data or "digits", anchored=anchored)
    folder = find_start(recipe.init_from)
    if folder is None:
        return _published(recipe)
    config = _config_of(folder)
    if config.get("kind") == "anchored" and recipe.anchored is False:
        raise ValueError(f"{recipe.init_from} is an anchored model: it goes on as one, leave out anchored: false")
    anchored = recipe.anchored if recipe.anchored is not None else config.get("kind") == "anchored"
    run = run_of(folder)
    trained = recorded(run)
    own = {**((config.get("architecture") or {}).get("arguments") or {}), **trained.get("arguments", {})}
    if not recipe.arguments.items() <= own.items():
        raise ValueError(
            f"arguments {recipe.arguments} is for a new model: {recipe.init_from} is one already; leave arguments out"
        )
    bank = ("references", "choose") if config.get("kind") == "anchored" and trained else ()
    for key in ("pretrained", "residuals", *bank):
        if getattr(recipe, key) not in (None, False, 0, getattr(Recipe, key), trained.get(key)):
            raise ValueError(
                f"{key} {getattr(recipe, key)} is for a new model: the network and the bank are those of "
                f"{recipe.init_from}; leave {key} out"
            )
    recipe = replace(recipe, anchored=anchored, pretrained=None)
    maps = maps_of(config.get("steps") or {})
    if recipe.objective is None:
        bank = config.get("bank_prepared", (1, 0))
        recipe = replace(recipe, objective=going_on(trained.get("objective"), anchored, maps, bank))
    check_maps(recipe.objective, maps, f"init_from: {recipe.init_from}")
    if recipe.data is None and "data" not in trained:
        raise ValueError(f"{recipe.init_from} belongs to no run that says what it was trained on: name the data")
    same = recipe.data is None or same_place(recipe.data, trained.get("data"))
    side = config.get("input_shape", [0, 0, 0])[-1]
    filled: dict[str, Any] = {"data": recipe.data or trained.get("data")}
    if recipe.image_size is None:
        filled["image_size"] = trained.get("image_size") if same else int(side)
    if same:
        for key, mine, theirs in (
            ("split_seed", recipe.split_seed, held_by(trained)),
            ("val_fraction", recipe.val_fraction, trained.get("val_fraction", Recipe.val_fraction)),
        ):
            if mine not in (None, getattr(Recipe, key), theirs):
                raise ValueError(
                    f"{key} {mine} would validate on images that {recipe.init_from} was trained on: it held out "
                    f"others, by {key} {theirs}; leave {key} out"
                )
            filled[key] = theirs
        if recipe.classes is None:
            filled["classes"] = trained.get("classes")
        if recipe.split_by is None:
            filled["split_by"] = trained.get("split_by")
        if recipe.augment == "auto":
            filled["augment"] = trained.get("augment", "auto")
    if recipe.ordered is None and config.get("ordered"):
        filled["ordered"] = config.get("class_names")
    return replace(recipe, **filled)


def _published(recipe: Recipe) -> Recipe:
    assert recipe.init_from is not None
    name = recipe.init_from.removeprefix("timm/")
    networks.locate(name)
    if not has_weights(name):
        raise ValueError(f"init_from: no weights were published for {name!r}, there is nothing to start from")
    if recipe.model not in ("auto", name):
        raise ValueError(f"the model is {recipe.model} and init_from says {name}: leave out model")
    if recipe.pretrained is False:
        raise ValueError(f"init_from {name} starts from published weights, and pretrained: false says not to")
    if recipe.data is None:
        raise ValueError(f"{name} is a network with published weights, which belong to no data here: name the data")
    return replace(recipe, model=name, pretrained=True, anchored=bool(recipe.anchored))


def find_start(init_from: str, what: str = "init_from") -> Path | None:
    """The model folder that `init_from` names (of the hub: in its cache); None for a name of timm or torchvision.

    `what` begins the messages.
    """
    if init_from == "RUN" and not Path(init_from).exists():
        raise FileNotFoundError(
            "say what to start from: --init-from with a run, a model folder, or a network of timm with its weights"
        )
    for path in (Path(init_from), Path(Recipe.runs) / init_from):
        try:
            if (folder := model_folder(path)) is not None:
                return folder
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{what}: {error}") from error
    if Path(init_from).exists():
        raise FileNotFoundError(f"{what}: {init_from} holds no model (no config.json that kedge.save wrote)")
    if init_from.startswith(PREFIX):
        return download(*split_name(init_from))
    known = networks.names()
    if init_from.removeprefix("torchvision/") in known or timm.is_model(init_from.removeprefix(TIMM)):
        return None
    runs = [p.name for p in Path(Recipe.runs).iterdir() if p.is_dir()] if Path(Recipe.runs).is_dir() else []
    raise FileNotFoundError(
        f"{what}: {init_from!r} is no run, no model folder and no network of timm"
        f"{near_names(init_from.removeprefix(TIMM), [*runs, *known, *timm.list_models(pretrained=True)])}"
    )


def start_run(recipe: Recipe) -> Path | None:
    """The run that the model in init_from is of; None without one. Raises as of `find_start`."""
    folder = find_start(recipe.init_from) if recipe.init_from is not None else None
    return None if folder is None else run_of(folder)


def load_start(recipe: Recipe, train: ImageSet) -> PixelModel | None:
    """The model of init_from with the classes of `train`, anchored if the recipe says so; None for published weights.

    Raises:
        ValueError: for other classes, channels or sizes, or a network without a name to make it again by.
    """
    folder = find_start(recipe.init_from) if recipe.init_from is not None else None
    if folder is None:
        return None
    model = checkpoint.load(folder)
    check_start(model, train, f"init_from: {recipe.init_from}")
    name, _ = _architecture(model)
    if recipe.model not in ("auto", name):
        raise ValueError(f"the model is {recipe.model}, but {recipe.init_from} is a {name}: leave out model")
    model = without_steps(model)
    if recipe.anchored and not model.count():
        wide = anchor(
            model.network,
            mean=model.mean.flatten().tolist(),
            std=model.std.flatten().tolist(),
            example=model.input_shape,
        )
        seed = derive_seed(recipe.seed, "references") % 2**31
        wide.references = choose_references(train.sample, recipe.references, recipe.choose, seed)
        wide.steps = model.steps
        model = wide
    model.class_names = list(train.class_names)
    return model.train()


def without_steps(model: PixelModel) -> PixelModel:
    """The model itself, without the steps and the thresholds that were set for the weights that are trained now.

    A map that these were trained through stays: without it the model would be another one.
    """
    model.steps, model.reject, model.unknown = trained_through(model.steps), None, None
    return model


def with_steps(model: PixelModel, steps: dict[str, dict[str, Any]]) -> PixelModel:
    """The model with other `steps`, of the same weights in memory."""
    other = copy.copy(model)
    other.steps = steps
    return other


def started(recipe: Recipe, model: PixelModel, sets: tuple[ImageSet, ImageSet] | None) -> Recipe:
    """The recipe of a run that trains on from a model in memory: network, anchoring and bank are the model's.

    Raises:
        ValueError: if what the recipe says contradicts it.
    """
    _check_of_start(recipe, model)
    data = recipe.data or (sets[0].name if sets else "digits")
    ordered = model.class_names if model.ordered and recipe.ordered is None else recipe.ordered
    maps, anchored, objective = maps_of(model.steps), model.count() > 0, recipe.objective
    if objective is None:
        objective = going_on(None, anchored, maps, getattr(model, "bank_prepared", (1, 0)))
    check_maps(objective, maps, "start: the model")
    recipe = replace(recipe, data=data, anchored=anchored, ordered=ordered, objective=objective)
    if getattr(model.network, "kedge_architecture", None) is not None:
        return with_network(recipe, model)
    name = type(model.network).__name__
    return replace(recipe, model=name, arguments={}, references=model.count() or recipe.references, pretrained=False)


def _check_of_start(recipe: Recipe, model: PixelModel) -> None:
    """Raise ValueError for what a recipe says that a model in memory has otherwise: its kind and its bank."""
    count, residuals = model.count(), getattr(model, "residuals", None)
    if recipe.anchored is not None and recipe.anchored != (count > 0):
        instead = "" if count else ", or make it one first, with kedge.anchor"
        raise ValueError(
            f"start: the model is {'an anchored' if count else 'a plain'} one: it goes on as one, leave out anchored: "
            f"{str(recipe.anchored).lower()}{instead}"
        )
    own = {"references": count, "residuals": 0 if residuals is None else len(residuals), "choose": None}
    for key, value in own.items() if count else ():
        if (written := getattr(recipe, key)) not in (getattr(Recipe, key), value):
            raise ValueError(
                f"start: {key} {written} is for a new model: the bank is that of the start; leave {key} out"
            )


def with_network(recipe: Recipe, model: PixelModel) -> Recipe:
    """The recipe with the network, and the size of the bank, of the model that is started from."""
    name, arguments = _architecture(model)
    count = model.count() or recipe.references
    return replace(recipe, model=name, arguments=arguments, references=count, pretrained=False)


def check_start(model: PixelModel, train: ImageSet, name: str = "start: the model") -> None:
    """Raise ValueError unless a model, called `name` in the message, has the task, classes and shape of the images."""
    if model.task != "classification":
        raise ValueError(f"{name} is a model for {model.task}, and this is classification")
    if (unlike := unlike_classes(train.class_names, model.class_names or model.num_outputs, OF)) is not None:
        raise ValueError(
            f"{name} has {model.num_outputs} outputs for {', '.join((model.class_names or ['?'])[:5])}, and "
            f"{train.name} has {len(train.class_names)} classes, {', '.join(train.class_names[:5])} ({unlike}). With "
            "fewer classes name them in classes, in the model's order; for new ones take it to the new task with kedge "
            "adapt (kedge.adaptation), which gives it a new head, or train from published weights"
        )
    if (takes := tuple(model.input_shape)) != tuple(train.image_shape):
        raise ValueError(
            f"{name} takes images of {'x'.join(map(str, takes))} (C, H, W), the images are "
            f"{'x'.join(map(str, train.image_shape))}"
            + (f"; set image_size {takes[-1]}, or leave it out" if train.image_shape[0] == takes[0] else "")
        )


def trained_eps(recipe: Recipe) -> str | None:
    """The epsilon that the run in init_from was trained against, as it is printed; None if it attacked nothing."""
    try:
        run = start_run(recipe)
        facts = recorded_facts(run) if run is not None else {}
        if "attack" not in facts:
            return None
        # Read and printed again: earlier versions wrote some numbers otherwise.
        return print_ball(*parse_ball(str(facts["attack"])))
    except (OSError, ValueError):
        return None


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error


def _architecture(model: PixelModel) -> tuple[str, dict[str, Any]]:
    """What a recipe names a network by: its name, and its arguments beside those that the images decide."""
    architecture = getattr(model.network, "kedge_architecture", None)
    if architecture is None:
        raise ValueError(
            f"init_from: {type(model.network).__name__} has no name in timm or torchvision, so that the run could not "
            "be resumed; train it with an objective in a loop of your own"
        )
    arguments = {k: v for k, v in architecture["arguments"].items() if k not in ("num_classes", "in_chans")}
    library = "" if architecture["library"] == "timm" else "torchvision/"
    return f"{library}{architecture['name']}", arguments
