"""What is to be known about the images of a run before its first epoch: doubles, and too few to validate on."""

from collections.abc import Iterator
from typing import Any

import torch

from kedge import data, metrics
from kedge.data import DataError, ImageSet
from kedge.data.report import listed
from kedge.training.module import Run
from kedge.training.recipe import Recipe
from kedge.training.record import ImageRecord
from kedge.training.resolve import FOLDS, why_no_folds

__all__ = ["about_left_out", "left_out", "remarks"]

FEW, FEW_OF_CLASS = 100, 5  # validation images below which it is said what they can tell
_SHOWN = 3


def remarks(
    recipe: Recipe, train: ImageSet, val: ImageSet, record: ImageRecord, handed_over: bool = False
) -> list[str]:
    """Sentences on the same image in two classes, on test images that are training images, on few validation images.

    `handed_over`: whether the images were, or the model to start from.
    """
    own_part = _own_part(recipe)
    continued = recipe.init_from is not None and not recipe.pretrained
    folds = why_no_folds(recipe, handed_over, own_part, continued) is None
    count = len(train) + len(val) if folds else None
    lines = [*_in_two_classes(train, val), *_in_the_test(recipe, train, record), *_too_few(val, own_part, count)]
    if shared := record.count(val):  # of sets that were handed over: others have none
        lines.insert(0, f"careful: {shared:,} of the {len(val):,} validation images are training images, bit for bit")
    return lines


def _in_two_classes(train: ImageSet, val: ImageSet) -> Iterator[str]:
    first: dict[bytes, int] = {}
    unlike: set[bytes] = set()
    sets = [(images, images.keys(), images.labels.tolist()) for images in (train, val)]
    for _, keys, labels in sets:
        for key, label in zip(keys, labels, strict=True):
            if first.setdefault(key, label) != label:
                unlike.add(key)
    unlike.discard(b"")
    classes: dict[bytes, dict[int, str | None]] = {}
    for images, keys, labels in sets if unlike else ():
        for i, (key, label) in enumerate(zip(keys, labels, strict=True)):
            if key in unlike:
                classes.setdefault(key, {}).setdefault(label, images.paths[i] if images.paths else None)
    several = list(classes.values())
    if several:
        places = [
            " and ".join(
                [name or f"in {train.class_names[label]}" for label, name in list(names.items())[:_SHOWN]]
                + [f"in {len(names) - _SHOWN} classes more"] * (len(names) > _SHOWN)
            )
            for names in several[:_SHOWN]
        ]
        more = f"; and {len(several) - _SHOWN} more" if len(several) > _SHOWN else ""
        count = "1 image is" if len(several) == 1 else f"{len(several)} images are"
        yield (
            f"careful: {count} in several classes, the same bit for bit ({'; '.join(places)}{more}): no answer to them "
            "is right, and each teaches the opposite of the other"
        )


def _in_the_test(recipe: Recipe, train: ImageSet, record: ImageRecord) -> Iterator[str]:
    """Test images that are training images; a test part that cannot be read is better known before training, too."""
    place = str(recipe.data)
    try:
        if "test" not in data.splits(place):
            return
        channels, height, width = train.image_shape
        test = data.load(place, "test", height if height == width else None, channels)
    except DataError as error:
        yield f"careful: the test images of {place} cannot be read: {error}"
        return
    if shared := record.count(test):
        which = "all" if shared == len(test) else f"{shared:,} of"
        yield (
            f"careful: {which} the {len(test):,} test images of {train.name} are training images, bit for bit: "
            "accuracy on them will flatter the model. Take them out of one of the two parts"
        )


def _own_part(recipe: Recipe) -> bool:
    """Whether the validation images are a part of the data, and not drawn from the training images."""
    try:
        return "val" in data.splits(str(recipe.data))
    except DataError:
        return False


def _too_few(val: ImageSet, own_part: bool, by_folds: int | None) -> Iterator[str]:
    """`by_folds`: how many images cross-validation would judge by; None where it cannot."""
    count = len(val)
    if count == 0:  # folds judge
        return
    counts = torch.bincount(val.labels, minlength=len(val.class_names))
    scarce = [f"{val.class_names[c]} {n}" for c, n in enumerate(counts.tolist()) if n < FEW_OF_CLASS]
    reasons = []
    if count < FEW:
        right = round(0.8 * count)
        low, high = metrics.accuracy_interval(right, count)
        reasons.append(
            f"{count} validation images tell little: where {right} of them are right, the accuracy may be anything "
            f"from {100 * low:.0f} to {100 * high:.0f} %"
        )
    if scarce:
        more = f", ... ({len(scarce)} classes)" if len(scarce) > 8 else ""
        reasons.append(f"too few of single classes to judge these by ({', '.join(scarce[:8])}{more})")
    if reasons:
        more = (
            "A larger val part of the data tells more"
            if own_part
            else "A larger val_fraction, or a folder val, gives more"
        )
        if by_folds is not None:
            more += f"; --folds {FOLDS} judges by all {by_folds:,} images, and takes {FOLDS} trainings more"
        yield f"careful: {'; '.join(reasons)}. {more}"


def left_out(run: Run) -> dict[str, Any]:
    """Which images of a run could not be read, for its record; empty if there were none.

    `skipped` when the data was loaded, and `replaced` by another of their class while it trained: lists of
    [path, reason].
    """
    skipped = {**dict(run.train_set.report.skipped), **dict(run.val_set.report.skipped)}
    record = {
        "skipped": [[path, reason] for path, reason in skipped.items() if path not in run.unreadable],
        "replaced": [[path, reason] for path, reason in run.unreadable.items()],
    }
    return record if record["skipped"] or record["replaced"] else {}


def about_left_out(record: dict[str, Any]) -> str:
    """What `left_out` recorded, in words that name the first images."""
    words = {"skipped": "left out", "replaced": "replaced by another of their class in training"}
    counts = ", ".join(f"{len(record[key])} {what}" for key, what in words.items() if record[key])
    return f"unreadable images: {counts}\n{listed([*record['skipped'], *record['replaced']])}"
