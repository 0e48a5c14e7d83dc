"""Fill in what a recipe leaves open, once the data and then the network are known."""

import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from kedge import catalog, objectives
from kedge.data import ImageSet
from kedge.data.augment import CROP
from kedge.data.photo_loader import photo_workers
from kedge.devices import chosen_device
from kedge.named_model import has_weights
from kedge.optim.rules.adamw import FEW
from kedge.training.negatives import with_negatives
from kedge.training.nested import innermost, methods, short
from kedge.training.objective import objective_class
from kedge.training.recipe import Recipe

__all__ = [
    "default_objective",
    "reasons",
    "resolve",
    "resolve_data",
    "resolve_device",
    "resolve_folds",
    "resolve_network",
    "unused_weights",
    "why_no_folds",
]

STEPS = 200  # of fine-tuning from published weights, at least where that takes no more than 50 epochs
FOLDS = 3  # of fewer than FEW images, of which a tenth is too few to judge a training by
SMALL = 64  # pixels of a side up to which a set is trained from scratch, in memory


def resolve_device(recipe: Recipe) -> Recipe:
    """Fill in device and precision; ValueError if the device that is asked for is not here.

    Or if torchrun started another number of processes than there are devices to train on.
    """
    started = int(os.environ.get("WORLD_SIZE", 1)) if "TORCHELASTIC_RUN_ID" in os.environ else recipe.world
    if started != recipe.world:
        raise ValueError(
            f"torchrun started {started} processes, and devices {recipe.devices} on nodes {recipe.nodes} take "
            f"{recipe.world}: say --devices with what --nproc-per-node is, and --nodes with what --nnodes is"
        )
    device = chosen_device(recipe.device, ("cuda", "mps"))
    if device == "cuda" and recipe.devices > torch.cuda.device_count():
        raise ValueError(f"devices is {recipe.devices}, but there are {torch.cuda.device_count()} GPUs here")
    precision = recipe.precision
    if precision == "auto":
        precision = "bf16" if device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False) else "32"
    if precision == "16" and device == "cpu":
        raise ValueError("precision 16 needs a GPU; on the CPU take 32 or bf16")
    return replace(recipe, device=device, precision=precision)


def resolve_folds(recipe: Recipe, images: ImageSet | None, own_part: bool, continued: bool) -> Recipe:
    """Fill in the folds of a new run: none, or three where published weights are tuned on few images.

    `images`: all that can be trained on; None where training and validation images were handed over. `own_part`:
    whether the data has validation images. `continued`: whether the run starts from a model that was trained before.

    Raises:
        ValueError: if folds are asked for that cannot be.
    """
    if recipe.folds == 0:
        return recipe
    why = why_no_folds(recipe, images is None, own_part, continued)
    if recipe.folds is not None:
        if why is not None:
            raise ValueError(f"folds is {recipe.folds}, but {why}: leave folds out")
        return recipe
    if images is not None and recipe.class_order is not None:
        images = images.only_classes(recipe.class_order)
    if why is not None or images is None or len(images) >= FEW or recipe.head == "leave":
        return replace(recipe, folds=0)
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    spread = 2 * int((counts >= FOLDS).sum()) > len(counts)
    tuned = spread and _network(recipe, len(images), max(images.image_shape[1:]) <= SMALL)[1]
    return replace(recipe, folds=FOLDS if tuned else 0)


def why_no_folds(recipe: Recipe, handed_over: bool, own_part: bool, continued: bool) -> str | None:
    """Why folds cannot judge a new run, in words; None where they can.

    `handed_over`: whether training and validation images were; `own_part` and `continued` as of `resolve_folds`.
    """
    cannot = {
        "training and validation images were handed over": handed_over,
        "the data has validation images of its own": own_part,
        "the run starts from a model that was trained before": continued,
        "several processes train": recipe.world > 1,
        "the objective attacks, which chooses weights by validation images": _attacking(recipe),
        "average says how much of the training is kept": recipe.average is not None,
        "val_fraction says how much is held out": recipe.val_fraction != Recipe.val_fraction,
    }
    return next((words for words, so in cannot.items() if so), None)


def resolve_data(recipe: Recipe, count: int, image_shape: tuple[int, int, int]) -> Recipe:
    """Fill in model, size, augmentation and batch for `count` training images of `image_shape` `(C, H, W)`."""
    channels, height, width = image_shape
    if not recipe.anchored and _anchors(_kinds(recipe.objective or [])):
        raise ValueError("objective Anchored needs an anchored model: set anchored, or leave Anchored out")
    small = max(height, width) <= SMALL
    if recipe.augment == "pixmix" and not small:
        raise ValueError(
            f"augment pixmix is for images up to {SMALL} px, and these have {max(height, width)}; take trivial, "
            "randaugment, crop-flip or none"
        )
    if recipe.augment in ("trivial", "randaugment", "pixmix") and channels not in (1, 3):
        raise ValueError(f"augment {recipe.augment} is for grey or colour images, not for {channels} channels")
    references = min(Recipe.references, count) if recipe.references == Recipe.references else recipe.references
    if references > count:
        raise ValueError(f"references is {recipe.references}, but there are only {count} training images")
    if recipe.residuals > count:
        raise ValueError(f"residuals is {recipe.residuals}, but there are only {count} training images")
    model, pretrained = _network(recipe, count, small)
    batch = recipe.batch_size
    if batch is None:
        batch = 128 if small else 32
        least = 1 if pretrained else 20  # steps of an epoch; photos get more epochs instead
        while batch > 8 and count / batch < least:
            batch //= 2
        batch = max(min(batch // recipe.world, count), 2) * recipe.world
    if batch // recipe.world > count:
        raise ValueError(f"batch_size is {batch}, but there are only {count} training images")
    objective = recipe.objective or default_objective(bool(recipe.anchored), pretrained)
    resolved = replace(
        recipe,
        image_size=height if height == width else recipe.image_size,
        augment="crop-flip" if recipe.augment == "auto" else recipe.augment,
        model=model,
        workers=photo_workers(recipe.device == "cpu") if recipe.workers is None and not small else recipe.workers,
        pretrained=pretrained,
        crop=(0.4 if pretrained or recipe.init_from is not None else CROP) if recipe.crop is None else recipe.crop,
        batch_size=batch,
        references=references,
        objective=_anchored_attack(objective) if recipe.anchored else objective,
    )
    return with_negatives(resolved)


def _network(recipe: Recipe, count: int, small: bool) -> tuple[str, bool]:
    """The name of the network for `count` images, `small` ones or photos; whether it starts from published weights."""
    model = recipe.model
    if model == "auto":
        large = recipe.device != "cpu" and count >= 10_000
        own = "kedge_resnet18" if large else "kedge_resnet_small"  # without published weights
        model = own if small and not recipe.pretrained else "resnet18"
    if recipe.pretrained is not None:
        return model, recipe.pretrained
    return model, recipe.weights is not None or (has_weights(model) and not small)


def resolve_network(
    recipe: Recipe, network: nn.Module, count: int, image_shape: tuple[int, int, int], drawn: int | None = None
) -> Recipe:
    """Fill in optimizer, learning rate, weight decay and epochs by what the network is and starts from.

    `count`: of the training images; `drawn`: of those in an epoch, where these are not as many.
    """
    assert recipe.batch_size is not None
    attacking = _attacking(recipe)
    tuned = bool(recipe.pretrained) and not attacking  # measured on photos: docs/photos.md
    *wrappers, (rule, settings) = methods("optimizer", recipe.optimizer)
    if rule == "auto":  # transformers and their kin train badly with SGD
        transformer = any(isinstance(m, nn.LayerNorm) for m in network.modules())
        rule = "adamw" if transformer or tuned else "sgd"
    started = recipe.pretrained or recipe.init_from is not None
    usual = _usual(rule, recipe.batch_size, count, bool(started), tuned, attacking)
    lr = usual.get("lr") if recipe.lr is None else recipe.lr
    decay = usual["weight_decay"] if recipe.weight_decay is None else recipe.weight_decay
    if lr is None:
        raise ValueError(f"nothing is known of the learning rate of optimizer {rule}: say lr")
    epochs = recipe.epochs
    if epochs is None:
        steps = -(-(drawn or count) // recipe.batch_size)
        few = max(6, min(50, -(-STEPS // steps)))
        epochs = few if tuned else 10 if started else 30 if max(image_shape[1:]) <= SMALL else 40
    warmup = recipe.warmup
    if warmup is None:
        schedule, usual_warmup = methods("schedule", recipe.schedule)[0][0], 0.3 if tuned else 0.05
        own = ":" in schedule
        warmup = usual_warmup if own else catalog.stated("optim.schedules", schedule, "WARMUP", usual_warmup)
    own_head = recipe.arguments.get("head")
    linear = own_head is None or catalog.stated("heads", own_head, "AFFINE", True)
    head = ("probe" if tuned and linear else "leave") if recipe.head == "auto" else recipe.head
    head_lr = (5.0 if tuned else 1.0) if recipe.head_lr is None else recipe.head_lr
    norm = recipe.batch_norm
    if norm == "auto":
        norm = "frozen" if started and not attacking else "train"
    if 0 in recipe.layer_lr and norm == "train":
        raise ValueError(
            f"layer_lr {recipe.layer_lr} leaves a stage as it is, and its batch-norm statistics would follow the "
            "batches: say batch_norm: frozen, with trained weights to start from"
        )
    resolved = replace(
        recipe,
        optimizer=short([*wrappers, (rule, settings)]),
        lr=lr,
        weight_decay=decay,
        epochs=epochs,
        warmup=warmup,
        head=head,
        head_lr=head_lr,
        batch_norm=norm,
    )
    resolved.check()  # milestones against the epochs, the batch against the devices
    return resolved


def resolve(recipe: Recipe, network: nn.Module, train: ImageSet) -> Recipe:
    """Fill in all that is open of a run that trains `network` on images in memory."""
    recipe = resolve_data(resolve_device(recipe), len(train), train.image_shape)
    return resolve_network(recipe, network, len(train), train.image_shape)


def _usual(rule: str, batch_size: int, count: int, trained: bool, tuned: bool, attacking: bool) -> dict[str, float]:
    """The rate and the weight decay that a rule has where a recipe says none; of one's own it may say no rate."""
    usual = getattr(catalog.get("optim.rules", rule), "usual", None)
    if usual is None:
        return {"weight_decay": 0.0}
    values: dict[str, float] = usual(batch_size, count, trained, tuned, attacking)
    return values


def _anchored_attack(entries: list[Any]) -> list[Any]:
    """The objectives of an anchored model: an attack sees fixed references only if Anchored is outside of it."""
    kinds = _kinds(entries)
    inner = [i for i, kind in enumerate(kinds) if objectives.attacks_images(kind)]
    if not inner or _anchors(kinds):
        return entries
    return [*entries[: inner[0]], {"Anchored": {"alpha": 0.0}}, *entries[inner[0] :]]


def _attacking(recipe: Recipe) -> bool:
    return any(objectives.attacks_images(kind) for kind in _kinds(recipe.objective or []))


def _anchors(kinds: list[type[nn.Module]]) -> bool:
    return any(issubclass(kind, objectives.Anchored) for kind in kinds)


def _kinds(entries: list[Any]) -> list[type[nn.Module]]:
    """The classes that the entries of an objective name: one's own subclass counts as what it is made of."""
    return [objective_class(entry if isinstance(entry, str) else next(iter(entry))) for entry in entries]


def default_objective(anchored: bool, pretrained: bool) -> list[Any]:
    """The objective of a recipe that says none, by whether the model is anchored and has published weights."""
    if pretrained:  # measured on photos: docs/photos.md
        loss: list[Any] = [{"CrossEntropy": {"label_smoothing": 0.1}}]
        return [{"Anchored": {"alpha": 0.0}}, *loss] if anchored else loss
    # Measured from scratch: docs/decisions/masking.md.
    masked = {"Anchored": {"alpha": 0.25, "mask_target": "label"}}
    return [masked, "CrossEntropy"] if anchored else ["CrossEntropy"]


def reasons(written: Mapping[str, Any], recipe: Recipe, count: int, drawn: int | None = None) -> str | None:
    """Why `recipe` fine-tunes published weights on `count` images as it does: what was not set, and by what it goes.

    An epoch has `drawn` images (None: as many). `written` is the recipe before it was resolved; None where the run
    starts otherwise, or all of it was set.
    """
    if not recipe.pretrained or _attacking(recipe):
        return None
    assert recipe.batch_size is not None
    assert recipe.epochs is not None
    words = []
    if written.get("epochs") is None:
        steps = recipe.epochs * -(-(drawn or count) // recipe.batch_size)
        words.append(f"{recipe.epochs} epochs ({steps} steps; {STEPS} where 6 to 50 epochs give them)")
    assert recipe.lr is not None
    rule = innermost(recipe.optimizer)
    few, many = (_usual(rule, recipe.batch_size, n, True, True, False).get("lr") for n in (FEW - 1, FEW))
    usual = few if count < FEW else many
    if written.get("lr") is None and few != many:
        words.append(f"lr {recipe.lr:g} ({'below' if count < FEW else 'from'} {FEW} images)")
    if written.get("optimizer", "auto") == "auto" and usual is not None and recipe.lr > 10 * usual:
        words.append(f"{rule} (careful: lr {recipe.lr:g} is {recipe.lr / usual:.0f} times its usual {usual:g})")
    if written.get("batch_norm", "auto") == "auto" and recipe.batch_norm == "frozen":
        words.append("batch norm with its published statistics")
    return f"chosen for {count} images and published weights: {', '.join(words)}" if words else None


def unused_weights(written: Mapping[str, Any], recipe: Recipe, train: ImageSet) -> str | None:
    """What to say where published weights are left out because of the size of the images, and how to have them.

    `written` is the recipe before it was resolved; None where none are left out, or that was asked for.
    """
    if recipe.pretrained or written.get("pretrained") is not None or recipe.init_from is not None:
        return None
    if max(train.image_shape[1:]) > SMALL:  # none could be had, which was said
        return None
    if has_weights(recipe.model):
        return (
            f"the published weights of {recipe.model} are not used, as they are of larger images than {SMALL} px: "
            "--pretrained true starts from them at this size too"
        )
    if written.get("model") is not None:  # one without published weights was asked for
        return None
    if train.origin.sizes is None or max(train.origin.sizes[1]) <= SMALL:
        return None
    return (
        f"at up to {SMALL} px a small network is trained from random weights: --pretrained true takes a resnet18 with "
        "published weights, and so do larger images (--image_size 224)"
    )
