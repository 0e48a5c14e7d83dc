"""From a resolved recipe to the objects of a run: model, objective, optimizer, schedule."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kedge import catalog, data, networks, objectives, optim
from kedge.anchoring import PixelModel, anchor, choose_references, choose_residuals, plain
from kedge.anchoring.base import published_normalisation
from kedge.data import ImageSet, derive_seed
from kedge.epsilon import parse_epsilon
from kedge.pretrained import load_weights
from kedge.probing.heads import find_head
from kedge.training.recipe import Recipe
from kedge.training.takers import arguments_of, entries, objective_class, takers

__all__ = [
    "balanced_weights",
    "make_model",
    "make_objective",
    "make_optimizer",
    "make_schedule",
    "objective_class",
]


def make_network(recipe: Recipe, train: ImageSet) -> nn.Module:
    """Make the network; the same seed gives the same fresh weights."""
    channels, height, _ = train.image_shape
    torch.manual_seed(derive_seed(recipe.seed, "weights"))
    from_library = bool(recipe.pretrained) and recipe.weights is None
    network = networks.create(recipe.model, len(train.class_names), channels, height, from_library, recipe.arguments)
    if recipe.pretrained and recipe.weights is not None:
        fit = load_weights(network, recipe.weights, networks.heads(network), keep_head=False)
        networks.note_published_images(network)
        network.kedge_weights = fit.line(recipe.weights)  # type: ignore[assignment]
    return network


def make_model(recipe: Recipe, network: nn.Module, train: ImageSet) -> PixelModel:
    """Put the network behind its normalisation, and anchor it with a bank of training images."""
    mean, std = _normalisation(recipe, network, train)
    if recipe.anchored:
        model = anchor(network, mean=mean, std=std, example=train.image_shape)
        bank_set = _reference_set(recipe, train) or train
        seed = derive_seed(recipe.seed, "references") % 2**31
        model.references = choose_references(bank_set.sample, recipe.references, recipe.choose, seed)
        if recipe.residuals:
            model.residuals = choose_residuals(train.sample, model.references, recipe.residuals, seed)
        made: PixelModel = model
    else:
        made = plain(network, mean=mean, std=std, example=train.image_shape)
    made.class_names = list(train.class_names)
    return made


def make_objective(recipe: Recipe, train: ImageSet) -> nn.Module:
    """Nest the objectives that the recipe lists, the innermost last, with the recipe's values for those that take them.

    Raises:
        ValueError: as of `takers`; for an objective that cannot be made with its arguments.
    """
    objective: nn.Module | None = None
    taking = takers(recipe)
    for place, (name, kind, arguments) in reversed(list(enumerate(entries(recipe)))):
        if "attack" in arguments:
            arguments["attack"] = make_attack(name, arguments["attack"], recipe.eps)
        elif place in taking["eps"]:
            arguments["eps"] = parse_epsilon(recipe.eps)
        if isinstance(arguments.get("reference_set"), Mapping):
            arguments["reference_set"] = _subset(train, arguments["reference_set"])
        if place in taking["class_weights"]:
            arguments["class_weights"] = balanced_weights(train.labels, len(train.class_names))
        elif issubclass(kind, objectives.CrossEntropy) and arguments.get("class_weights") is not None:
            arguments["class_weights"] = average_one(arguments["class_weights"], train.labels)
        try:
            objective = kind(**arguments) if objective is None else kind(objective, **arguments)
        except TypeError as error:
            wraps = "inner" in arguments_of(kind) and objective is None
            what = "it wraps another objective: name one after it" if wraps else error
            raise ValueError(f"objective {name} cannot be made with {arguments}: {what}") from error
    assert objective is not None
    return objective


def make_attack(objective: str, given: Any, eps: str | None = None) -> Any:
    """The attack that an objective in a recipe names, `{PGD: {eps: 8/255, steps: 10}}`.

    `eps` stands in for the one written there.
    """
    try:
        name, arguments = catalog.spelled("attacks", given)
        catalog.resolve("attacks", name)
    except ValueError as error:
        raise ValueError(
            f"the attack of {objective} is written {{PGD: {{eps: 8/255, steps: 10}}}} or {{FGSM: {{eps: 8/255}}}}, "
            f"not {given!r}: {error}"
        ) from error
    values = _numbers(arguments, f"attack {name} of {objective}: ")
    if eps is not None:
        number = parse_epsilon(eps)
        if (written := values.get("eps")) and values.get("step_size") is not None:
            # The step that was written for another radius, as large a share of this one.
            values["step_size"] = values["step_size"] * number / written
        values["eps"] = number
    if "eps" not in values:
        raise ValueError(f"attack {name} of {objective} needs eps, in pixel units, such as {{{name}: {{eps: 8/255}}}}")
    return catalog.build("attacks", {name: values})


def _numbers(arguments: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The arguments of an attack with its lengths as numbers: `8/255` and `1e-2` are text to YAML."""
    lengths = ("eps", "step_size", "start")
    return {
        key: parse_epsilon(value, f"{source}{key}") if key in lengths and value is not None else value
        for key, value in arguments.items()
    }


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights `[C]` by which every class counts the same: N / (C · n_c), as in scikit-learn's "balanced".

    C is the number of classes that have images: the mean weight of the N images is 1.
    """
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).float())


def average_one(class_weights: Any, labels: Tensor) -> Tensor:
    """Weights `[C]` scaled to a mean of 1 over images of these labels: only their ratios are a recipe's to say."""
    weights = torch.as_tensor(class_weights, dtype=torch.float32)
    if weights.ndim != 1 or len(weights) <= int(labels.max()):
        raise ValueError(
            f"class_weights has {weights.numel()} values, and the training images have {int(labels.max()) + 1} classes"
        )
    mean = float(weights.double()[labels].mean())
    if not 0 < mean < math.inf:
        raise ValueError(f"class_weights are numbers, 0 or more, one for each class, not {class_weights}")
    return weights / mean


def make_optimizer(recipe: Recipe, model: PixelModel) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameter groups; fused on CUDA, one kernel for a whole step."""
    assert recipe.lr is not None
    assert recipe.weight_decay is not None
    groups = optim.parameter_groups(model, recipe.weight_decay)
    head_lr = recipe.head_lr or 1.0
    if (head_lr, recipe.layer_decay, recipe.unfreeze) != (1.0, 1.0, 0.0):
        numbers = _layers(model, apart=recipe.layer_decay != 1 or recipe.unfreeze > 0)
        groups = optim.by_layer(groups, numbers, recipe.lr, recipe.layer_decay, head_lr)
    # A fused optimizer undoes the scaling of precision 16 itself, after the hooks that change gradients, and Lightning
    # refuses to clip for one in mixed precision.
    may = recipe.precision != "16" and (recipe.clip is None or recipe.precision == "32")
    fused = True if may and next(model.parameters()).is_cuda else None
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.lr, fused=fused)
    nesterov = recipe.nesterov and recipe.momentum > 0
    return torch.optim.SGD(groups, lr=recipe.lr, momentum=recipe.momentum, nesterov=nesterov, fused=fused)


def _layers(model: PixelModel, apart: bool) -> dict[nn.Parameter, int]:
    """The number of each parameter's layer, counted from the head, which is 0; all others 1 unless `apart`."""
    try:
        head = find_head(model)
    except ValueError:
        raise ValueError(
            "the network has no linear last layer to count layers from: leave head_lr, layer_decay and unfreeze out"
        ) from None
    numbers = optim.layer_numbers(model.network, head)
    own = {parameter: numbers[name] for name, parameter in model.network.named_parameters()}
    return {p: own.get(p, 1) if apart else min(1, own.get(p, 1)) for p in model.parameters()}


def make_schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """The recipe's schedule, in optimizer steps."""
    schedule = _schedule(recipe, optimizer, steps_per_epoch)
    if recipe.unfreeze:
        assert recipe.epochs is not None
        optim.unfreezing(schedule, round(recipe.unfreeze * recipe.epochs * steps_per_epoch))
    return schedule


def _schedule(
    recipe: Recipe, optimizer: torch.optim.Optimizer, steps_per_epoch: int
) -> torch.optim.lr_scheduler.LambdaLR:
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


def _reference_set(recipe: Recipe, train: ImageSet) -> ImageSet | None:
    for entry in recipe.objective or []:
        for arguments in entry.values() if isinstance(entry, dict) else []:
            if isinstance((arguments or {}).get("reference_set"), Mapping):
                return _subset(train, arguments["reference_set"])
    return None


def _subset(train: ImageSet, wanted: Mapping[str, Any]) -> ImageSet:
    if set(wanted) - {"classes", "n", "seed"}:
        raise ValueError(f"reference_set takes classes, n and seed, not {sorted(wanted)}")
    return data.reference_subset(train.sample, **wanted)


def _normalisation(recipe: Recipe, network: nn.Module, train: ImageSet) -> tuple[list[float], list[float]]:
    """Per channel: what the published weights were trained with, else mean and deviation of training images."""
    if recipe.pretrained and (published := published_normalisation(network, train.image_shape[0])) is not None:
        return published
    train = train.sample
    step = -(-len(train) // 2048)  # evenly through the set: a folder lists one class after another
    some = train.subset(range(0, len(train), step)).readable()[0]
    count, total, squares = 0, torch.zeros(()).long(), torch.zeros(()).long()
    for images, _ in some.batches(64):  # whole numbers: the sums are exact, and few images are held at a time
        pixels = images.long()
        count += pixels[:, 0].numel()
        total, squares = total + pixels.sum((0, 2, 3)), squares + (pixels * pixels).sum((0, 2, 3))
    means = total.double() / count / 255
    variance = (squares.double() - total.double() ** 2 / count) / (count - 1) / 255**2
    deviations = variance.clamp(min=0).sqrt().clamp(min=0.01)
    return [round(v, 4) for v in means.tolist()], [round(v, 4) for v in deviations.tolist()]
