"""The further images of a run, `extra` in its recipe: loaded, told apart from the images held out, and known again."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from kedge import data
from kedge.data import ImageSet, StreamSet
from kedge.training.recipe import Recipe
from kedge.training.record import ImageRecord

__all__ = ["about_extra", "check_extra", "load_extra", "with_extra"]

log = logging.getLogger("kedge")


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
    channels, height, _ = train.image_shape
    for name in sorted({*recipe.extra, *(in_memory or {})}):
        images = (in_memory or {}).get(name)
        if images is None:
            images = data.load_images(recipe.extra[name], "train", height, channels)
        if isinstance(images, StreamSet):
            raise ValueError(f"extra: {name} is read in turn, which further images cannot be: give them as files")
        if tuple(images.image_shape) != tuple(train.image_shape):
            raise ValueError(
                f"extra: {name} has images of {images.image_shape}, the training images {train.image_shape}"
            )
        keys = images.keys()
        held = frozenset(val.keys()) if val.keys_of == images.keys_of else frozenset()
        order = sorted((i for i in range(len(images)) if keys[i] not in held), key=keys.__getitem__)
        if len(order) < len(images):
            log.warning("%s of the %s images of %s (%s) are validation images of this run, and left out",
                        f"{len(images) - len(order):,}", f"{len(images):,}", images.name, name)  # fmt: skip
        if not order:
            raise ValueError(f"extra: {name} has no image that is not held out for validation")
        sets[name] = images.subset(order)
        sets[name].mirror = train.mirror
    return sets


def about_extra(sets: Mapping[str, ImageSet]) -> dict[str, Any]:
    """What run.json says of the further images: how many there are, and a digest of what is in them."""
    return {
        name: {"images": len(images), "sha256": hashlib.sha256(b"".join(images.keys())).hexdigest()}
        for name, images in sets.items()
    }


def check_extra(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Raise ValueError where the further images are not those that a run began with."""
    for name in before.keys() | now.keys():
        if before.get(name) != now.get(name):
            was, found = ((each.get(name) or {}).get("images", 0) for each in (before, now))
            raise ValueError(
                f"extra: the images {name} changed since the run began ({was:,} then, {found:,} now): put them back, "
                "or start a new run"
            )


def with_extra(record: ImageRecord, sets: Mapping[str, ImageSet]) -> ImageRecord:
    """The record of a run that trains on further images too: they are among those that its model has seen."""
    comparable = [images for images in sets.values() if images.keys_of == record.keys_of]
    further = {key for images in comparable for key in images.keys()} - set(record.trained)  # noqa: SIM118
    known = record.known and len(comparable) == len(sets)
    return replace(record, earlier=sorted({*record.earlier, *further}), known=known) if sets else record
