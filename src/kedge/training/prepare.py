"""What was written becomes what is run: the recipe with nothing left open, and the images and the model."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.anchoring.protocol import independent
from kedge.data import DataError, ImageSet, with_cache
from kedge.devices import cpu_has_bf16
from kedge.layout import as_stored, channels_last
from kedge.networks import PretrainedUnavailable
from kedge.probing.set_probe import MOST, set_probe
from kedge.training.batches import drawn_images
from kedge.training.build import make_model, make_network
from kedge.training.facts import EarlierRun
from kedge.training.folds import places_in
from kedge.training.images import check_order, divided, load_pool, resumed, with_wrong_labels
from kedge.training.negatives import with_negatives
from kedge.training.objective import check_objective
from kedge.training.recipe import Recipe
from kedge.training.recorded import label_smoothing
from kedge.training.resolve import resolve_data, resolve_device, resolve_folds, resolve_network
from kedge.training.start_from import check_start, inherit, load_start, started, with_network, without_steps

__all__ = ["InMemory", "Plan", "begin", "prepare"]

log = logging.getLogger("kedge")


@dataclass(frozen=True)
class InMemory:
    """What was handed over in place of what the recipe names: see `kedge.training.fit`."""

    sets: tuple[ImageSet, ImageSet] | None = None
    start: PixelModel | None = None
    extra: Mapping[str, ImageSet] = field(default_factory=dict)
    models: Mapping[str, nn.Module] = field(default_factory=dict)
    judged: bool = True


@dataclass
class Plan:
    """What a run runs with.

    Attributes:
        recipe: with nothing left open.
        train, val: the images; with folds none are for validation.
        model: in train mode, on the CPU.
        probe: the record of the linear probe that its last layer was set to; None where it was not.
    """

    recipe: Recipe
    train: ImageSet
    val: ImageSet
    model: PixelModel
    probe: dict[str, Any] | None = None


def prepare(
    written: Recipe,
    memory: InMemory,
    earlier: EarlierRun | None = None,
    fold: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Plan:
    """Turn what was written into what is run. A recipe is filled in here, and nowhere else, in this order.

    1. What the model decides that the run starts from: data, classes, images held out, anchoring, objective.
    2. Device and precision.
    3. The images; whether folds judge them, where they are few; what their number and size decide.
    4. The model; what its network decides.
    5. Its last layer, where that starts from a linear probe.

    Args:
        written: the recipe; of a run that goes on the one in its folder, which has little left open.
        memory: what was handed over.
        earlier: the run that goes on.
        fold: the number of a fold, whose validation images decide nothing.
        say: called with a line before what takes long.
    """
    recipe = written
    if earlier is None:
        recipe = inherit(written) if memory.start is None else started(written, memory.start, memory.sets)
        _check_bank(recipe)
    # Before the data is read, which decides the objective where the recipe says none.
    check_objective(with_negatives(recipe, memory.extra), memory.extra, memory.models)
    if memory.sets is not None and recipe.imbalance and earlier is None:
        raise ValueError(
            "imbalance is of the data that a recipe names, and training images were handed over: hand over what "
            "kedge.data.imbalanced leaves of them"
        )
    if memory.sets is not None and recipe.selection is not None and earlier is None:
        raise ValueError(
            "selection picks among the images that a recipe names, and training images were handed over: hand over "
            "what kedge.selection.Selection.read(FILE).pick leaves of them"
        )
    if memory.sets is not None and recipe.split_by is not None and not recipe.folds and earlier is None:
        raise ValueError(
            "split_by holds groups out of the images that a recipe names, and training and validation images were "
            "handed over: divide them by kedge.data.split_validation(images, groups=kedge.data.group_by(images, WAY))"
        )
    recipe = resolve_device(recipe)
    if fold is None and (recipe.device, recipe.precision) == ("cpu", "bf16") and not cpu_has_bf16():
        log.warning(
            "precision is bf16, for which this processor has no instructions (no AVX-512, and none of ARM's for bf16): "
            "an epoch may take ten times as long as with --precision 32"
        )
    if earlier is not None and recipe.folds and recipe.world > 1:
        raise ValueError(
            f"cross-validation in {recipe.folds} folds judges this run, and takes one process: go on with --devices 1 "
            "--nodes 1"
        )
    train, val, model, recipe = _images_and_model(recipe, earlier, memory)
    recipe = resolve_network(recipe, model.network, len(train), train.image_shape, drawn_images(recipe, train))
    plan = Plan(recipe, train, val, model)
    if recipe.head == "probe" and (earlier is None or not (earlier.checkpoint or earlier.folder.has_start)):
        # By the labels that training sees: a head fitted to the true ones would let them out.
        train, val, _ = with_wrong_labels(recipe, train, val)
        judged = val if fold is None else val.subset(())
        if say is not None:
            say(
                f"{train.name}: {len(train) + len(val):,} images are there; the linear probe comes first, a pass of "
                f"{recipe.model} over {'them' if len(train) + len(judged) < MOST else f'{MOST:,} of them'}"
            )
        _start_from_probe(plan, train, judged, _goes_on(recipe, memory))
    return plan


def _check_bank(recipe: Recipe) -> None:
    """Raise ValueError for what is said of the bank of a model that has none."""
    for key in ("choose", "residuals"):
        if not recipe.anchored and (value := getattr(recipe, key)) != getattr(Recipe, key):
            raise ValueError(
                f"{key} {value} is of the bank of references, and a model that is not anchored has none: leave {key} "
                "out, or train with anchored: true, on the command line --anchored true"
            )


def _images_and_model(
    recipe: Recipe, earlier: EarlierRun | None, memory: InMemory
) -> tuple[ImageSet, ImageSet, PixelModel, Recipe]:
    """Training images, validation images, the model, and the recipe with what they decide."""
    begun = earlier if earlier is not None and earlier.knows_images else None
    pool = load_pool(recipe) if begun is None and memory.sets is None else None

    def divided_and_begun(recipe: Recipe) -> tuple[ImageSet, ImageSet, PixelModel, Recipe]:
        train, val = _divided(recipe, pool, begun, memory.sets)
        return train, val, *begin(recipe, train, earlier, memory.start)

    chosen = recipe
    if earlier is None:
        images, part = pool if pool is not None else (None, None)
        chosen = resolve_folds(recipe, images, part is not None, _goes_on(recipe, memory))
    train, val, model, resolved = divided_and_begun(chosen)
    if pool is not None and chosen.folds and recipe.folds is None and not resolved.pretrained:  # they cannot be had
        train, val, model, resolved = divided_and_begun(replace(recipe, folds=0, pretrained=False))
    if resolved.folds:
        places_in(resolved, train)  # too few are an error before anything slow
    return train, val, model, resolved


def _divided(
    recipe: Recipe,
    pool: tuple[ImageSet, ImageSet | None] | None,
    begun: EarlierRun | None,
    sets: tuple[ImageSet, ImageSet] | None,
) -> tuple[ImageSet, ImageSet]:
    if begun is not None:
        train, val = resumed(begun.folder.path, sets)
    elif pool is not None:
        train, val = divided(recipe, *pool)
    else:
        assert sets is not None
        train, val = sets
        if recipe.ordered not in (None, train.class_names):
            check_order(recipe, train)
            raise ValueError(
                f"the images that were handed over have their classes in the order {', '.join(train.class_names)}, and "
                f"ordered says {', '.join(recipe.ordered or [])}: hand over images.only_classes([...]) in that order"
            )
    val, _ = val.readable()  # a training image is replaced when it is met, one of these would be missed
    train, val = (with_cache(images, recipe.cache, recipe.cache_gb) for images in (train, val))
    return train, val


def begin(
    recipe: Recipe, train: ImageSet, earlier: EarlierRun | None = None, start: PixelModel | None = None
) -> tuple[PixelModel, Recipe]:
    """The model to train: `start`, that of init_from, or a network made by the recipe; and the recipe with it."""
    model, recipe = _begun(recipe, train, earlier, start)
    model.ordered = recipe.ordered is not None
    return model, recipe


def _begun(
    recipe: Recipe, train: ImageSet, earlier: EarlierRun | None, start: PixelModel | None
) -> tuple[PixelModel, Recipe]:
    count, shape = len(train), train.image_shape
    if start is not None:
        check_start(start, train)
        return without_steps(independent(start)).train(), resolve_data(recipe, count, shape)
    if earlier is not None and earlier.folder.has_start:
        return without_steps(checkpoint.load(earlier.folder.start)).train(), resolve_data(recipe, count, shape)
    if (model := load_start(recipe, train)) is not None:
        return model, resolve_data(with_network(recipe, model), count, shape)
    network, resolved = _network(recipe, train, earlier is not None and earlier.checkpoint is not None)
    return make_model(resolved, network, train), resolved


def _goes_on(recipe: Recipe, memory: InMemory) -> bool:
    """Whether a run starts from a model that was trained before, and not from a network."""
    return memory.start is not None or (recipe.init_from is not None and not recipe.pretrained)


def _start_from_probe(plan: Plan, train: ImageSet, val: ImageSet, trained: bool) -> None:
    """Set the head of the model to its linear probe of `train`; a network without a linear head keeps its own.

    `trained`: whether the model was before, so that it may answer one reference otherwise than another.
    """
    recipe, model = plan.recipe, plan.model
    rows, workers = max(64, recipe.batch_size or 0), recipe.workers or 0
    model.to(torch.device(recipe.device))
    if recipe.device != "mps":
        channels_last(model)  # of all that comes before the first step nothing takes as long as the probe
    try:
        smoothing = label_smoothing(recipe.objective)
        plan.probe = set_probe(model, train, val, recipe.seed, rows, workers, smoothing, trained)
    except DataError:  # that says nothing of the network
        raise
    except ValueError as error:
        why = str(error).partition(" Name one with head")[0]  # which is for kedge adapt
        log.warning("no linear probe to start from, and so nothing that the run must not fall below: %s", why)
        plan.recipe = replace(recipe, head="leave", head_lr=1.0)
    finally:
        as_stored(model.cpu()).train()


def _network(recipe: Recipe, train: ImageSet, has_checkpoint: bool) -> tuple[nn.Module, Recipe]:
    """The network, and the recipe resolved; where published weights cannot be had that is said, and it has none."""
    resolved = resolve_data(recipe, len(train), train.image_shape)
    if has_checkpoint:  # which holds the weights
        return make_network(replace(resolved, pretrained=False), train), resolved
    try:
        return make_network(resolved, train), resolved
    except PretrainedUnavailable as error:
        if recipe.init_from is not None:
            raise ValueError(f"init_from: {error}. There is nothing to start from") from error
        log.warning(
            "\n  *** %s\n  *** TRAINING FROM RANDOM WEIGHTS instead: expect a much lower accuracy, and train longer. "
            "Have the weights as a file? --model %s --weights FILE\n",
            error,
            resolved.model,
        )
        resolved = resolve_data(replace(recipe, pretrained=False), len(train), train.image_shape)
        return make_network(resolved, train), resolved
