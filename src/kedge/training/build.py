"""From a resolved recipe to the objects of a run: model, objective, optimizer, schedule."""

import math
import sys
from typing import Any

import torch
from torch import nn

from kedge import catalog, networks, optim, specs, torchvision_networks
from kedge.anchoring import PixelModel, anchor, choose_references, choose_residuals, plain
from kedge.anchoring.bare_network import published_normalisation
from kedge.data import ImageSet, derive_seed
from kedge.pretrained import load_weights
from kedge.probing.heads import layer_of_classes
from kedge.training.nested import FLAT, methods, takes
from kedge.training.objective import images_of
from kedge.training.recipe import Recipe

__all__ = [
    "check_stages",
    "check_steps",
    "make_model",
    "make_network",
    "make_optimizer",
    "make_rule",
    "make_schedule",
    "set_residuals",
    "step_passes",
]


def make_network(recipe: Recipe, train: ImageSet) -> nn.Module:
    """Make the network; the same seed gives the same fresh weights."""
    channels, height, _ = train.image_shape
    torch.manual_seed(derive_seed(recipe.seed, "weights"))
    from_library = bool(recipe.pretrained) and recipe.weights is None
    network = networks.create(recipe.model, len(train.class_names), channels, height, from_library, recipe.arguments)
    if recipe.pretrained and recipe.weights is not None:
        fit = load_weights(network, recipe.weights, networks.heads(network), keep_head=False)
        torchvision_networks.note_published_images(network)
        network.kedge_weights = fit.line(recipe.weights)  # type: ignore[assignment]
    return network


def make_model(recipe: Recipe, network: nn.Module, train: ImageSet) -> PixelModel:
    """Put the network behind its normalisation, and anchor it with a bank of training images."""
    mean, std = _normalisation(recipe, network, train)
    if recipe.anchored:
        anchored = anchor(network, mean=mean, std=std, example=train.image_shape)
        bank_set = _reference_set(recipe, train) or train
        anchored.references = choose_references(bank_set.sample, recipe.references, recipe.choose, _seed(recipe))
        if recipe.residuals:
            set_residuals(recipe, anchored, train, recipe.residuals)
        model: PixelModel = anchored
    else:
        model = plain(network, mean=mean, std=std, example=train.image_shape)
    model.class_names = list(train.class_names)
    return model


def set_residuals(recipe: Recipe, model: Any, train: ImageSet, count: int) -> None:
    """Give an anchored model `count` residuals between training images and its bank."""
    model.residuals = choose_residuals(train.sample, model.references, count, _seed(recipe))


def _seed(recipe: Recipe) -> int:
    """Of the draws of a bank and its residuals."""
    return derive_seed(recipe.seed, "references") % 2**31


def make_optimizer(recipe: Recipe, model: PixelModel, objective: nn.Module | None = None) -> torch.optim.Optimizer:
    """The recipe's rules over the model's parameter groups; fused on CUDA, one kernel for a whole step.

    Weights of the `objective`'s own are groups of their own, at the rate `lr`.
    """
    assert recipe.lr is not None
    assert recipe.weight_decay is not None
    groups = optim.parameter_groups(model, recipe.weight_decay)
    head_lr = recipe.head_lr or 1.0
    if (head_lr, recipe.layer_decay, recipe.unfreeze) != (1.0, 1.0, 0.0) or recipe.layer_lr:
        numbers = _layers(model, apart=recipe.layer_decay != 1 or recipe.unfreeze > 0 or bool(recipe.layer_lr))
        groups = optim.by_layer(groups, numbers, recipe.lr, recipe.layer_decay, head_lr, recipe.layer_lr)
    own = [] if objective is None else optim.parameter_groups(objective, recipe.weight_decay)
    groups += [{**group, "layer": 0} for group in own]
    return make_rule(recipe, groups, model)


def make_rule(recipe: Recipe, groups: Any, model: nn.Module | None = None) -> torch.optim.Optimizer:
    """The rules that the recipe names, round each other, over parameters or groups of them."""
    # A fused optimizer undoes the scaling of precision 16 itself, after the hooks that change gradients, and Lightning
    # refuses to clip for one in mixed precision.
    may = recipe.precision != "16" and (recipe.clip is None or recipe.precision == "32")
    on_cuda = model is not None and next(model.parameters()).is_cuda
    fused = True if may and on_cuda else None
    *outer, (name, settings) = methods("optimizer", recipe.optimizer)
    flat = {key: getattr(recipe, key) for key in FLAT["optimizer"] if takes("optimizer", name, key)}
    optimizer: torch.optim.Optimizer = specs.build("optim.rules", {name: settings}, groups, fused=fused, **flat)
    for rule, own in reversed(outer):
        optimizer = specs.build("optim.rules", {rule: own}, optimizer, model=model)
    return optimizer


def check_steps(recipe: Recipe, steps_per_epoch: int) -> None:
    """Raise ValueError for settings of rules or of the schedule that cannot work, before a run has a folder."""
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "layer": 0}]
    make_schedule(recipe, make_rule(recipe, groups), steps_per_epoch)


def check_stages(recipe: Recipe, model: PixelModel) -> None:
    """Raise ValueError where the network has fewer layers than layer_lr has factors, or none to count from."""
    if recipe.layer_lr and len(recipe.layer_lr) > (deepest := max(_layers(model, apart=True).values())):
        raise ValueError(
            f"layer_lr has {len(recipe.layer_lr)} factors, and the network has {deepest} layers before its last one: "
            "give fewer"
        )


def step_passes(recipe: Recipe) -> int:
    """How often a step of the optimizer computes the gradients of its batch.

    Raises:
        ValueError: more than once, where that cannot be; for a rule that cannot read a compiled model.
    """
    *outer, (innermost, _) = methods("optimizer", recipe.optimizer)
    inner = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    rules = {name: specs.build("optim.rules", {name: settings}, inner) for name, settings in outer}
    rules[innermost] = catalog.get("optim.rules", innermost)
    passes = {name: int(getattr(rule, "passes", 1)) for name, rule in rules.items()}
    several = [name for name, count in passes.items() if count > 1]
    if several and recipe.precision == "16":
        raise ValueError(
            f"optimizer {several[0]} computes the gradients of a step more than once, which the scaled gradients of "
            "precision 16 do not allow: take bf16 or 32"
        )
    reading = [name for name, rule in rules.items() if getattr(rule, "reads_outputs", False)]
    if reading and recipe.compile:
        raise ValueError(
            f"optimizer {reading[0]} reads what the model puts out, which a compiled model does not show: leave "
            "compile out"
        )
    return math.prod(passes.values())


def _layers(model: PixelModel, apart: bool) -> dict[nn.Parameter, int]:
    """The number of each parameter's layer, counted from the head, which is 0; all others 1 unless `apart`."""
    try:
        head = layer_of_classes(model)
    except ValueError:
        raise ValueError(
            "the network has no linear last layer to count layers from: leave head_lr, layer_decay, layer_lr and "
            "unfreeze out"
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
    run = {"steps": steps, "steps_per_epoch": steps_per_epoch, "warmup": min(warmup, steps - 1)}
    ((name, settings),) = methods("schedule", recipe.schedule)
    method = catalog.get("optim.schedules", name)
    method = getattr(sys.modules[method.__module__], "for_run", method)
    flat = {key: getattr(recipe, key) for key in FLAT["schedule"] if takes("schedule", name, key)}
    part = specs.Part("optim.schedules", name, method, settings)
    schedule: torch.optim.lr_scheduler.LambdaLR = part.make(optimizer, **{**flat, **run})
    return schedule


def _reference_set(recipe: Recipe, train: ImageSet) -> ImageSet | None:
    for entry in recipe.objective or []:
        for arguments in entry.values() if isinstance(entry, dict) else []:
            if isinstance(named := (arguments or {}).get("reference_set"), dict | str):
                return images_of(train, named)
    return None


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
