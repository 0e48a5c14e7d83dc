"""From a resolved recipe to the objects of a run: model, objective, optimizer, schedule."""

import torch
from torch import nn

from kedge import networks, optim
from kedge.anchoring import PixelModel, anchor, choose_references, choose_residuals, plain
from kedge.anchoring.base import published_normalisation
from kedge.data import ImageSet, derive_seed
from kedge.pretrained import load_weights
from kedge.probing.heads import find_head
from kedge.training.objective import images_of
from kedge.training.recipe import Recipe

__all__ = [
    "make_model",
    "make_network",
    "make_optimizer",
    "make_schedule",
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


def make_optimizer(recipe: Recipe, model: PixelModel, objective: nn.Module | None = None) -> torch.optim.Optimizer:
    """SGD or AdamW over the model's parameter groups; fused on CUDA, one kernel for a whole step.

    Weights of the `objective`'s own are groups of their own, at the rate `lr`.
    """
    assert recipe.lr is not None
    assert recipe.weight_decay is not None
    groups = optim.parameter_groups(model, recipe.weight_decay)
    head_lr = recipe.head_lr or 1.0
    if (head_lr, recipe.layer_decay, recipe.unfreeze) != (1.0, 1.0, 0.0):
        numbers = _layers(model, apart=recipe.layer_decay != 1 or recipe.unfreeze > 0)
        groups = optim.by_layer(groups, numbers, recipe.lr, recipe.layer_decay, head_lr)
    own = [] if objective is None else optim.parameter_groups(objective, recipe.weight_decay)
    groups += [{**group, "layer": 0} for group in own]
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
