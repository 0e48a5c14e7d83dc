"""Where a run starts from: published weights, or a model that was trained before."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from kedge.checkpoint import read_config
from kedge.epsilon import parse_ball, print_ball
from kedge.hub import PREFIX, download, split_name
from kedge.training.recipe import Recipe, held_by, near
from kedge.training.recorded import anchored_arguments, recorded, recorded_facts
from kedge.training.resolve import has_weights

__all__ = ["find_start", "inherit", "run_of", "same_place", "trained_eps"]

OWN = ("model", "best", "last", "start")  # the model folders inside a run


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
    if recipe.objective is None:
        recipe = replace(recipe, objective=going_on(trained.get("objective"), anchored))
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
        if recipe.augment == "auto":
            filled["augment"] = trained.get("augment", "auto")
    return replace(recipe, **filled)


def going_on(objective: list[Any] | None, anchored: bool) -> list[Any] | None:
    """The objective of a run that goes on from one with `objective`: masked and smoothed as that was, or not at all.

    An attack in it is not gone on with, as that is asked for. None where the other run says nothing.
    """
    if not objective:
        return None
    written = anchored_arguments(objective)
    masks = {"alpha": 0.0} if written is None else written
    masked = {key: value for key, value in masks.items() if key in ("alpha", "mask_target", "mask_per")}
    named = {name: value for entry in objective if isinstance(entry, dict) for name, value in entry.items()}
    smoothing = (named.get("CrossEntropy") or {}).get("label_smoothing")
    loss: Any = {"CrossEntropy": {"label_smoothing": smoothing}} if smoothing else "CrossEntropy"
    return [{"Anchored": masked}, loss] if anchored else [loss]


def find_start(init_from: str, what: str = "init_from") -> Path | None:
    """The model folder that `init_from` names (of the hub: in its cache); None for a name of timm or torchvision.

    `what` begins the messages.
    """
    if init_from == "RUN" and not Path(init_from).exists():
        raise FileNotFoundError(
            "say what to start from: --init-from with a run, a model folder, or a network of timm with its weights"
        )
    for path in (Path(init_from), Path(Recipe.runs) / init_from):
        for folder in (path / "model", path):
            if (folder / "config.json").is_file():
                return folder
        if (path / "recipe.yaml").is_file():
            raise FileNotFoundError(
                f"{what}: the run {path} has no model yet; finish it with kedge train --resume {path}"
            )
    if Path(init_from).exists():
        raise FileNotFoundError(f"{what}: {init_from} holds no model (no config.json that kedge.save wrote)")
    if init_from.startswith(PREFIX):
        return download(*split_name(init_from))
    import timm

    from kedge import networks

    name = init_from.removeprefix("timm/")
    if timm.is_model(name) or name.removeprefix("torchvision/") in networks.names():
        return None
    known = [p.name for p in Path(Recipe.runs).iterdir() if p.is_dir()] if Path(Recipe.runs).is_dir() else []
    raise FileNotFoundError(
        f"{what}: {init_from!r} is no run, no model folder and no network of timm."
        f"{near(init_from, [*known, *timm.list_models(), *timm.list_models(pretrained=True)])}"
    )


def _published(recipe: Recipe) -> Recipe:
    assert recipe.init_from is not None
    name = recipe.init_from.removeprefix("timm/")
    if not has_weights(name):
        raise ValueError(f"init_from: no weights were published for {name!r}, there is nothing to start from")
    if recipe.model not in ("auto", name):
        raise ValueError(f"the model is {recipe.model} and init_from says {name}: leave out model")
    if recipe.pretrained is False:
        raise ValueError(f"init_from {name} starts from published weights, and pretrained: false says not to")
    if recipe.data is None:
        raise ValueError(f"{name} is a network with published weights, which belong to no data here: name the data")
    return replace(recipe, model=name, pretrained=True, anchored=bool(recipe.anchored))


def same_place(data: str, other: str | None) -> bool:
    """Whether two recipes name the same data; a folder can be spelled in many ways."""
    if data == other or other is None:
        return data == other
    return Path(data).exists() and Path(other).exists() and Path(data).resolve() == Path(other).resolve()


def trained_eps(recipe: Recipe) -> str | None:
    """The epsilon that the run in init_from was trained against, as it is printed; None if it attacked nothing."""
    try:
        folder = find_start(recipe.init_from) if recipe.init_from is not None else None
        run = run_of(folder) if folder is not None else None
        facts = recorded_facts(run) if run is not None else {}
        if "attack" not in facts:
            return None
        # Read and printed again: earlier versions wrote some numbers otherwise.
        return print_ball(*parse_ball(str(facts["attack"])))
    except (OSError, ValueError):
        return None


def run_of(folder: Path) -> Path | None:
    """The run that a model folder belongs to; None if it belongs to none."""
    parent = folder.resolve().parent
    return parent if folder.resolve().name in OWN and (parent / "recipe.yaml").is_file() else None


def _config_of(folder: Path) -> dict[str, Any]:
    try:
        return read_config(folder)
    except ValueError as error:
        raise ValueError(f"init_from: {error}") from error
