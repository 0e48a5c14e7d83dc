"""From a resolved recipe to the objects of a run: data, model, objective, optimizer, schedule."""

import inspect
import logging
from collections.abc import Mapping
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn

from kedge import attacks, data, networks, objectives, optim
from kedge.adaptation.heads import find_head
from kedge.anchoring import PixelModel, anchor, choose_references, choose_residuals, plain
from kedge.data import ImageSet, derive_seed
from kedge.pretrained import load_weights
from kedge.training.recipe import Recipe, held_by, near

__all__ = [
    "balanced_weights",
    "load_sets",
    "make_model",
    "make_objective",
    "make_optimizer",
    "make_schedule",
    "objective_class",
]

log = logging.getLogger("kedge")


def load_sets(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """Load the training and the validation set; without a validation split one is held out, stratified."""
    assert recipe.data is not None
    train = data.load(recipe.data, "train", recipe.image_size)
    if recipe.train_images is not None:
        if recipe.train_images > len(train):
            raise ValueError(f"train_images is {recipe.train_images}, and {recipe.data} has {len(train)}: leave it out")
        train = train.subset(range(recipe.train_images))
    if "val" in data.splits(recipe.data):
        val = data.load(recipe.data, "val", train.image_shape[1], train.image_shape[0])
        if val.class_names != train.class_names:
            raise ValueError(
                f"{recipe.data}: the classes of train and val differ: "
                f"{sorted(set(train.class_names) ^ set(val.class_names))[:10]}"
            )
    else:
        train, val = data.split_validation(train, recipe.val_fraction, held_by(vars(recipe)))
    if recipe.classes is not None:
        train, val = train.only_classes(recipe.classes), val.only_classes(recipe.classes)
    counts = torch.bincount(train.labels, minlength=len(train.class_names))
    if len(counts) < 2:
        raise ValueError(f"{recipe.data} has one class, {train.class_names}: a classifier needs two or more")
    if bool((counts == 0).any()):
        empty = [name for name, n in zip(train.class_names, counts.tolist(), strict=True) if n == 0]
        raise ValueError(
            f"{recipe.data}: no training images of class {', '.join(empty[:10])}; name the others in classes"
        )
    return train, val


def make_network(recipe: Recipe, train: ImageSet) -> nn.Module:
    """Make the network; the same seed gives the same fresh weights."""
    channels, height, _ = train.image_shape
    torch.manual_seed(derive_seed(recipe.seed, "weights"))
    from_library = bool(recipe.pretrained) and recipe.weights is None
    network = networks.create(recipe.model, len(train.class_names), channels, height, from_library, recipe.arguments)
    if recipe.pretrained and recipe.weights is not None:
        fit = load_weights(network, recipe.weights, networks.heads(network), keep_head=False)
        log.info(fit.line(recipe.weights))
    return network


def make_model(recipe: Recipe, network: nn.Module, train: ImageSet) -> PixelModel:
    """Put the network behind its normalisation, and anchor it with a bank of training images."""
    mean, std = _normalisation(recipe, network, train)
    if recipe.anchored:
        model = anchor(network, mean=mean, std=std, example=train.image_shape)
        bank_set = _reference_set(recipe, train) or train
        seed = derive_seed(recipe.seed, "references") % 2**31
        model.references = choose_references(bank_set, recipe.references, recipe.choose, seed)
        if recipe.residuals:
            model.residuals = choose_residuals(train, model.references, recipe.residuals, seed)
        made: PixelModel = model
    else:
        made = plain(network, mean=mean, std=std, example=train.image_shape)
    made.class_names = list(train.class_names)
    return made


def make_objective(recipe: Recipe, train: ImageSet) -> nn.Module:
    """Nest the objectives that the recipe lists, the innermost last."""
    objective: nn.Module | None = None
    for entry in reversed(recipe.objective or []):
        name, arguments = (entry, {}) if isinstance(entry, str) else next(iter(entry.items()))
        arguments = dict(arguments or {})
        kind = objective_class(name)
        if "attack" in arguments:
            arguments["attack"] = make_attack(name, arguments["attack"], recipe.eps)
        if isinstance(arguments.get("reference_set"), Mapping):
            arguments["reference_set"] = _subset(train, arguments["reference_set"])
        if name == "CrossEntropy" and recipe.class_weights == "balanced":
            arguments.setdefault("class_weights", balanced_weights(train.labels, len(train.class_names)))
        known = inspect.signature(kind).parameters
        for key in arguments:
            if key not in known:
                raise ValueError(f"objective {name} has no argument {key!r}.{near(key, known)}")
        try:
            objective = kind(**arguments) if objective is None else kind(objective, **arguments)
        except TypeError as error:
            what = "it wraps another objective: name one after it" if "inner" in known and objective is None else error
            raise ValueError(f"objective {name} cannot be made with {arguments}: {what}") from error
    assert objective is not None
    if recipe.eps is not None and not any(isinstance(m, objectives.Attacking) for m in objective.modules()):
        raise ValueError(
            f"eps {recipe.eps} is the radius of an attack, and the objective has none: --config robust-finetune has one"
        )
    return objective


def make_attack(objective: str, given: Any, eps: str | None = None) -> Any:
    """The attack that an objective in a recipe names, `{PGD: {eps: 8/255, steps: 10}}`: a PGD or FGSM.

    `eps` stands in for the one written there.
    """
    name, arguments = next(iter(given.items())) if isinstance(given, Mapping) and len(given) == 1 else (given, {})
    known: dict[str, Any] = {"PGD": attacks.PGD, "FGSM": attacks.FGSM}
    if not isinstance(name, str) or name not in known or not isinstance(arguments, Mapping | None):
        raise ValueError(
            f"the attack of {objective} is written {{PGD: {{eps: 8/255, steps: 10}}}} or {{FGSM: {{eps: 8/255}}}}, "
            f"not {given!r}.{near(str(name), known)}"
        )
    values = {key: _fraction(value) for key, value in {**(arguments or {}), **({"eps": eps} if eps else {})}.items()}
    if "eps" not in values:
        raise ValueError(f"attack {name} of {objective} needs eps, in pixel units, such as {{{name}: {{eps: 8/255}}}}")
    if eps and "step_size" in values and isinstance(written := _fraction((arguments or {}).get("eps")), float | int):
        # The step that was written for another radius, as large a share of this one.
        values["step_size"] = values["step_size"] * _fraction(eps) / written if written else values["step_size"]
    try:
        return known[name](**values)
    except TypeError as error:
        raise ValueError(f"attack {name} of {objective} cannot be made with {values}: {error}") from error


def _fraction(value: Any) -> Any:
    """`8/255` and `1e-2`, which are text to YAML, as numbers; all else as it is."""
    if not isinstance(value, str):
        return value
    try:
        top, _, bottom = value.partition("/")
        return float(top) / float(bottom or 1)
    except (ValueError, ZeroDivisionError):
        return value


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights `[C]` by which every class counts the same: N / (C · n_c), as in scikit-learn's "balanced"."""
    counts = torch.bincount(labels, minlength=classes).clamp(min=1)
    return len(labels) / (classes * counts.float())


def make_optimizer(recipe: Recipe, model: PixelModel) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameter groups; fused on CUDA, one kernel for a whole step."""
    assert recipe.lr is not None
    assert recipe.weight_decay is not None
    groups = optim.parameter_groups(model, recipe.weight_decay)
    if recipe.head_lr not in (None, 1.0):
        layer = model.network.get_submodule(find_head(model))
        groups = optim.with_own_rate(groups, layer.parameters(), recipe.lr * recipe.head_lr)
    # A fused optimizer undoes the scaling of precision 16 itself, after the hooks that change gradients, and Lightning
    # refuses to clip for one in mixed precision.
    may = recipe.precision != "16" and (recipe.clip is None or recipe.precision == "32")
    fused = True if may and next(model.parameters()).is_cuda else None
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


def make_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule, in optimizer steps."""
    assert recipe.epochs is not None
    assert recipe.warmup is not None
    steps = recipe.epochs * steps_per_epoch
    warmup = round(recipe.warmup * (steps if recipe.warmup < 1 else steps_per_epoch))
    warmup = min(warmup, steps - 1)
    if recipe.schedule == "slow-start-fast-decay":
        share = warmup / steps
        return optim.SlowStartFastDecay(optimizer, steps, share, recipe.start_factor, recipe.end_factor, recipe.ramp)
    if recipe.schedule == "slow-start-halving":
        return optim.SlowStartHalving(optimizer, steps_per_epoch, max(1, round(warmup / steps_per_epoch)))
    if recipe.schedule == "multistep":
        milestones = [max(1, round(m * steps_per_epoch)) for m in recipe.milestones]
        return optim.multistep(optimizer, milestones, recipe.gamma, min(warmup, milestones[0] - 1))
    return optim.cosine(optimizer, steps, warmup) if recipe.schedule == "cosine" else optim.constant(optimizer, warmup)


def objective_class(name: str) -> type[nn.Module]:
    """The class of an objective in a recipe, `module:Class` for one's own; ValueError for a name that is none."""
    if ":" in name:  # foreign code, only in this explicit form
        module, _, attribute = name.partition(":")
        try:
            found = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ValueError(f"objective {name}: {error}") from error
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


def _reference_set(recipe: Recipe, train: ImageSet) -> ImageSet | None:
    for entry in recipe.objective or []:
        for arguments in entry.values() if isinstance(entry, dict) else []:
            if isinstance((arguments or {}).get("reference_set"), Mapping):
                return _subset(train, arguments["reference_set"])
    return None


def _subset(train: ImageSet, wanted: Mapping[str, Any]) -> ImageSet:
    if set(wanted) - {"classes", "n", "seed"}:
        raise ValueError(f"reference_set takes classes, n and seed, not {sorted(wanted)}")
    return data.reference_subset(train, **wanted)


def _normalisation(recipe: Recipe, network: nn.Module, train: ImageSet) -> tuple[list[float], list[float]]:
    """Per channel: what the published weights were trained with, else mean and deviation of training images."""
    channels = train.image_shape[0]
    if recipe.pretrained:
        config = getattr(network, "pretrained_cfg", None) or {}
        mean = list(config.get("mean", (0.485, 0.456, 0.406)))  # torchvision's weights: ImageNet's
        std = list(config.get("std", (0.229, 0.224, 0.225)))
        if channels != len(mean):
            mean, std = [sum(mean) / len(mean)] * channels, [sum(std) / len(std)] * channels
        return mean, std
    step = -(-len(train) // 2048)  # evenly through the set: a folder lists one class after another
    images, _ = next(train.subset(range(0, len(train), step)).batches(2048))
    pixels = images.double() / 255
    means, deviations = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=0.01)
    return [round(v, 4) for v in means.tolist()], [round(v, 4) for v in deviations.tolist()]
