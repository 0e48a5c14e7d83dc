"""Which images a run is on: of a new one loaded, divided and recorded, of one that goes on those that it began with.

Beside them the further images, `extra` in its recipe: loaded, told apart from those held out, and known again.
"""

import hashlib
import logging
from collections.abc import Collection, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from kedge import data
from kedge.checks import unlike_classes
from kedge.data import ImageSet, StreamSet, with_label_noise
from kedge.data.folders import about_inner, same_place
from kedge.data.groups import series_hint
from kedge.data.sets import size_of
from kedge.data.splitting import split_validation
from kedge.named_model import run_of
from kedge.own_code import near_names
from kedge.selection import Selection
from kedge.training.groups import about_folds, about_held_out, about_shared, groups_of
from kedge.training.held_out import RunImages, unseen
from kedge.training.recipe import Recipe, held_by
from kedge.training.record import ImageRecord
from kedge.training.start_from import find_start

__all__ = [
    "about_extra",
    "about_images",
    "check_classes",
    "check_order",
    "check_same_images",
    "divided",
    "load_extra",
    "load_pool",
    "load_sets",
    "record_of",
    "resumed",
    "with_extra",
    "with_wrong_labels",
    "wrong_val_labels",
]

log = logging.getLogger("kedge")


def load_sets(recipe: Recipe) -> tuple[ImageSet, ImageSet]:
    """Load the training and the validation images of a new run; without a part val some of each class are held out."""
    return divided(recipe, *load_pool(recipe))


def load_pool(recipe: Recipe) -> tuple[ImageSet, ImageSet | None]:
    """Load the images that a new run can train on, and its validation images where the data says which these are."""
    assert recipe.data is not None
    train: ImageSet
    out: ImageSet | None = None
    if recipe.selection is not None:
        Selection.read(recipe.selection)  # before the data
        if data.is_stream(recipe.data):
            raise ValueError(f"selection picks images out of a set, and {recipe.data} is read in turn: leave it out")
    if (stream := data.stream(recipe.data, recipe.image_size, recipe.val_fraction, held_by(vars(recipe)))) is not None:
        train, out = stream
        if recipe.split_by is not None:
            raise ValueError(f"split_by divides a set by its groups, and {recipe.data} is read in turn: leave it out")
        if recipe.train_images is not None or recipe.class_order is not None:
            train.subset(())  # which says that nothing can be picked out of it
    else:
        train = data.load(recipe.data, "train", recipe.image_size)
    if recipe.train_images is not None:
        if recipe.train_images > len(train):
            raise ValueError(f"train_images is {recipe.train_images}, and {recipe.data} has {len(train)}: leave it out")
        train = train.subset(range(recipe.train_images))
    if "val" in data.splits(recipe.data):
        val = data.load(recipe.data, "val", size_of(train.image_shape), train.image_shape[0])
        if (unlike := unlike_classes(train.class_names, val.class_names, ("train", "val"))) is not None:
            raise ValueError(f"{recipe.data}: the classes of train and val differ: {unlike}")
        out = val
    check_order(recipe, train)
    if recipe.imbalance:
        train = train if recipe.class_order is None else train.only_classes(recipe.class_order)
        train = data.imbalanced(train, **{"seed": recipe.seed, **recipe.imbalance})
    return train, out


def divided(recipe: Recipe, train: ImageSet, val: ImageSet | None) -> tuple[ImageSet, ImageSet]:
    """Training and validation images out of what `load_pool` gives; with folds in the recipe none are held out.

    Of a part val those are left out that are also training images, of this run or of the model that it starts from.
    """
    if recipe.folds and recipe.selection is not None:
        raise ValueError(
            f"cross-validation in {recipe.folds} folds would judge the selection by images that had a part in it: "
            "write folds: 0, and hold out what its models held out"
        )
    if recipe.folds:
        train, val = train.subset(range(len(train))), train.subset(())
        train.split, val.split = "train", "val"
        if (groups := groups_of(recipe, train)) is not None:
            train.report.notes.append(about_folds(groups))
    elif val is None:
        train, val = _divide(recipe, train)
    elif recipe.split_by is not None:
        train.report.notes.append(about_shared(recipe, train, val))
    val, _ = val.readable()
    if recipe.class_order is not None:
        train, val = train.only_classes(recipe.class_order), val.only_classes(recipe.class_order)
    if recipe.selection is not None:
        train, words = Selection.read(recipe.selection).pick(train, val)
        train.report.notes.append(words)
    check_classes(train, str(recipe.data), "; name the others in classes")
    unknown = unseen(val, record_of(recipe, train, None), "this run")
    if len(unknown) < len(val):
        train.report.notes.append(
            f"{len(val) - len(unknown)} of the {len(val)} images of the part val are training images too, and left out"
        )
    return train, unknown


def check_order(recipe: Recipe, train: ImageSet) -> None:
    """Raise ValueError where the order of a recipe is not one of all classes of the images that it trains on."""
    if recipe.ordered is None:
        return
    there, order = train.class_names, recipe.ordered
    if unknown := [name for name in order if name not in there]:
        raise ValueError(
            f"ordered names {unknown[0]!r}, and {train.name} has the classes {', '.join(there[:20])}"
            f"{near_names(unknown[0], there)}"
        )
    if recipe.classes is None and (left := [name for name in there if name not in order]):
        raise ValueError(
            f"ordered leaves out {', '.join(left[:10])} of {train.name}: give every class its place, from the lowest "
            f"to the highest; to train without it say so with classes: [{', '.join(order)}]"
        )


def check_classes(train: ImageSet, name: str, way_out: str = "") -> None:
    """Raise ValueError where no classifier can be made from images called `name`: a class alone, or an empty one."""
    counts = torch.bincount(train.labels, minlength=len(train.class_names)).tolist()
    if len(counts) < 2:
        inner = about_inner(Path(name).expanduser()) if Path(name).expanduser().is_dir() else None
        raise ValueError(
            f"{name} has one class, {train.class_names}: a classifier needs two or more{f'. {inner}' if inner else ''}"
        )
    if empty := [each for each, count in zip(train.class_names, counts, strict=True) if count == 0]:
        raise ValueError(f"{name}: no training images of class {', '.join(empty[:10])}{way_out}")


def _divide(recipe: Recipe, images: ImageSet) -> tuple[ImageSet, ImageSet]:
    """Training and validation images of a new run on a set without validation images.

    What the model that it starts from was trained on is trained on again, what that held out is held out again.

    Raises:
        ValueError: where it starts from a run on the same data whose images nobody can tell.
    """
    before, _ = _before(recipe)
    record = ImageRecord.read(before)
    if before is not None and record is None:
        earlier = RunImages(before)
        if same_place(str(recipe.data), earlier.data):
            earlier.check_known()
    known: dict[str, Collection[bytes]] = {}
    if record is not None and record.keys_of == images.keys_of:
        known = {"trained": record.seen, "held": record.held_out}
    groups = groups_of(recipe, images)
    if groups is None and (hint := series_hint(images.paths or (), len(images.class_names))) is not None:
        images.report.notes.append(hint)
    train, val = split_validation(images, recipe.val_fraction, held_by(vars(recipe)), **known, groups=groups)
    if groups is not None:
        train.report.notes.append(about_held_out(groups, images, val))
    return train, val


def record_of(recipe: Recipe, train: ImageSet, val: ImageSet | None, in_memory: bool = False) -> ImageRecord:
    """The record of a new run on these images, with what the model was trained on that it starts from.

    `in_memory`: whether it starts from a model that was handed over, and not from what the recipe says.
    """
    run, known = _before(recipe)
    before = ImageRecord.read(run)
    return ImageRecord.of(train, val, before, before is not None or (known and not in_memory))


def resumed(run: Path, sets: tuple[ImageSet, ImageSet] | None) -> tuple[ImageSet, ImageSet]:
    """The images that a run began with, in their order then, whatever they are called now; of `sets` if given.

    Raises:
        ValueError: if they are not those.
    """
    record = ImageRecord.read(run)
    if sets is not None:
        return sets if record is None else record.arranged(*sets)
    images = RunImages(run)
    if data.is_stream(images.data):
        train, val = load_sets(images.recipe)
        return (train, val) if record is None else record.arranged(train, val)
    if record is None:
        return images.train, images.val
    some = images.recipe.train_images is not None or bool(images.recipe.imbalance)
    some = some or images.recipe.selection is not None  # of more
    return record.arranged(images.whole, images.val if images.own_part else None, some)


def _before(recipe: Recipe) -> tuple[Path | None, bool]:
    """The run whose model a recipe starts from, or None; and whether it starts from no model of kedge at all."""
    if recipe.init_from is None:
        return None, True
    try:
        folder = find_start(recipe.init_from)
    except (OSError, ValueError):  # what a model that was handed over in memory is called
        return None, False
    return (None, True) if folder is None else (run_of(folder), False)


def load_extra(
    recipe: Recipe, train: ImageSet, val: ImageSet, in_memory: Mapping[str, ImageSet] | None = None
) -> dict[str, ImageSet]:
    """The further images of a run by name, in the shape of the training images, without validation images.

    Their order follows from what is in them, so that a folder can be moved and its files renamed.

    Args:
        recipe: says where they are.
        train: the training images.
        val: the validation images: one that is bit for bit among the further images is left out of these.
        in_memory: sets in place of those that the recipe names.

    Raises:
        ValueError: images of another shape, or none left.
        DataError: a set that is not there, or that is read in turn.
    """
    sets: dict[str, ImageSet] = {}
    size, channels = size_of(train.image_shape), train.image_shape[0]
    for name in sorted({*recipe.extra, *(in_memory or {})}):
        images = (in_memory or {}).get(name)
        if images is None:
            images = data.load_images(recipe.extra[name], "train", size, channels)
        if isinstance(images, StreamSet):
            raise ValueError(f"extra: {name} is read in turn, which further images cannot be: give them as files")
        if tuple(images.image_shape) != tuple(train.image_shape):
            raise ValueError(
                f"extra: {name} has images of {images.image_shape}, the training images {train.image_shape}"
            )
        keys = images.keys()
        held_out = frozenset(val.keys()) if val.keys_of == images.keys_of else frozenset()
        order = sorted((i for i in range(len(images)) if keys[i] not in held_out), key=keys.__getitem__)
        if len(order) < len(images):
            log.warning("%s of the %s images of %s (%s) are validation images of this run, and left out",
                        f"{len(images) - len(order):,}", f"{len(images):,}", images.name, name)  # fmt: skip
        if not order:
            raise ValueError(f"extra: {name} has no image that is not held out for validation")
        sets[name] = data.with_cache(images.subset(order), recipe.cache, recipe.cache_gb)
        sets[name].mirror = train.mirror
    return sets


def about_extra(sets: Mapping[str, ImageSet]) -> dict[str, Any]:
    """What run.json says of the further images: how many there are, and a digest of what is in them."""
    return {
        name: {"images": len(images), "sha256": hashlib.sha256(b"".join(images.keys())).hexdigest()}
        for name, images in sets.items()
    }


def about_images(train: ImageSet, val: ImageSet | None) -> dict[str, Any]:
    """What run.json says of the images: how many there are to train on and to validate, their shape and classes."""
    count = 0 if val is None else len(val)
    return {"train": len(train), "val": count, "image_shape": list(train.image_shape), "classes": train.class_names}


def with_wrong_labels(recipe: Recipe, train: ImageSet, val: ImageSet) -> tuple[ImageSet, ImageSet, dict[str, int]]:
    """(training images, validation images) with the wrong labels of the recipe, and how many of each are wrong.

    Raises:
        ValueError: for wrong labels of validation images where folds hold none out.
    """
    if not recipe.label_noise:
        return train, val, {}
    if recipe.label_noise_val and recipe.folds:
        raise ValueError(
            f"label_noise_val is of validation images, and {recipe.folds} folds hold none out: write folds: 0"
        )
    noisy = with_label_noise(train, recipe.label_noise, recipe.seed, recipe.label_noise_kind)
    counts = {"wrong_labels": int((noisy.labels != train.labels).sum())}
    if recipe.label_noise_val:
        wrong = wrong_val_labels(recipe, val)
        counts["wrong_val_labels"] = int((wrong.labels != val.labels).sum())
        val = wrong
    return noisy, val, counts


def wrong_val_labels(recipe: Recipe, val: ImageSet) -> ImageSet:
    """The validation images by which a run is judged: with wrong labels where its recipe says so."""
    if not recipe.label_noise_val:
        return val
    return with_label_noise(val, recipe.label_noise, recipe.seed, recipe.label_noise_kind, "val")


def check_same_images(facts: Mapping[str, Any], now: Mapping[str, Any], extra: Mapping[str, Any]) -> None:
    """Raise ValueError where images, or further ones, are not those that a run began with, as its `facts` have them."""
    if facts["data"] != now:
        raise ValueError(f"the data changed since the run began: {facts['data']} then, {now} now")
    before = facts.get("extra", {})
    for name in before.keys() | extra.keys():
        if before.get(name) != extra.get(name):
            was, count = ((each.get(name) or {}).get("images", 0) for each in (before, extra))
            raise ValueError(
                f"extra: the images {name} changed since the run began ({was:,} then, {count:,} now): put them back, "
                "or start a new run"
            )


def with_extra(record: ImageRecord, sets: Mapping[str, ImageSet]) -> ImageRecord:
    """The record of a run that trains on further images too: they are among those that its model has seen."""
    comparable = [images for images in sets.values() if images.keys_of == record.keys_of]
    further = {key for images in comparable for key in images.keys()} - set(record.trained)  # noqa: SIM118
    known = record.known and len(comparable) == len(sets)
    return replace(record, earlier=sorted({*record.earlier, *further}), known=known)
