"""What a run says of itself before its first epoch: of its recipe, and of images that judge it badly."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from kedge import data, metrics
from kedge.data import DataError, ImageSet
from kedge.data.folders import about_order
from kedge.data.sets import size_of
from kedge.epsilon import print_ball
from kedge.printable import counted
from kedge.training.batches import drawn_images
from kedge.training.build import step_passes
from kedge.training.cost import Cost
from kedge.training.folder import RunFolder
from kedge.training.leaks import about_leaks
from kedge.training.nested import methods
from kedge.training.recipe import Recipe
from kedge.training.record import ImageRecord
from kedge.training.recorded import anchored_arguments, masking
from kedge.training.resolve import FOLDS, reasons, unused_weights, why_no_folds
from kedge.training.start_from import trained_eps
from kedge.training.validation import attacks, ball

__all__ = ["about_bank", "opening", "remarks"]

FEW, FEW_OF_CLASS = 100, 5  # validation images below which it is said what they can tell
_SHOWN = 3


def opening(
    recipe: Recipe,
    folder: RunFolder,
    train: ImageSet,
    val: ImageSet,
    model: nn.Module,
    objective: nn.Module,
    facts: dict[str, Any],
) -> str:
    """The lines before the first epoch: data, network, attack, folder, cost; `facts` as in run.json."""
    cost, written = facts.get("cost"), facts.get("given", {})
    size = sum(p.numel() for p in model.parameters()) / 1e6
    kind = "anchored " if recipe.anchored else ""
    rules = " round ".join(name for name, _ in methods("optimizer", recipe.optimizer))
    sampler, drawn = "", drawn_images(recipe, train)
    if recipe.sampler != Recipe.sampler:
        sampler = f", sampler {methods('sampler', recipe.sampler)[0][0]}"
        sampler += f" ({drawn} images an epoch)" if drawn != len(train) else ""
    start = "pretrained" if recipe.pretrained else "from random weights"
    if recipe.init_from is not None:
        start = f"from {recipe.init_from}"
    lines = [
        f"{train.name}: {len(train)} images to train on, {f'{len(val)} to validate, ' if not recipe.folds else ''}"
        f"{len(train.class_names)} classes, {'x'.join(str(n) for n in train.image_shape)}",
        *(
            f"{name}: {about['images']} further images, {recipe.extra.get(name, 'handed over')}"
            for name, about in facts.get("extra", {}).items()
        ),
        (about_order(train.class_names) or "") if recipe.ordered is None else "",
        _folds(recipe, len(train), written.get("folds") is None),
        _imbalance(recipe, train),
        _wrong_labels(recipe, facts["data"]),
        f"{kind}{recipe.model}, {size:.1f} M parameters, {start}; {counted(recipe.epochs or 0, 'epoch')} of batches of "
        f"{recipe.batch_size}, {rules} at {recipe.lr:.3g}{sampler}, on {recipe.world} {recipe.device}, "
        f"precision {recipe.precision}",
        getattr(getattr(model, "network", None), "kedge_weights", ""),
        _masking(recipe),
        reasons(written, recipe, len(train), drawn),
        unused_weights(written, recipe, train),
        "" if recipe.folds else about_bank(recipe),
        _attack(recipe, objective),
        _probe(facts.get("probe"), len(val)),
        f"run folder: {folder.path}",
        str(Cost(**cost)) if cost and (attacks(objective) or step_passes(recipe) > 1) else "",
    ]
    return "\n".join(line for line in lines if line)


def _imbalance(recipe: Recipe, train: ImageSet) -> str:
    """How many images of a class were left, the most and the fewest."""
    if not recipe.imbalance:
        return ""
    counts = torch.bincount(train.labels, minlength=len(train.class_names)).tolist()
    most, fewest = (train.class_names[counts.index(limit)] for limit in (max(counts), min(counts)))
    kind = recipe.imbalance.get("kind", "long-tailed")
    return f"imbalance: {kind}, {max(counts)} training images of {most} down to {min(counts)} of {fewest}"


def _wrong_labels(recipe: Recipe, data: dict[str, Any]) -> str:
    """How many labels are wrong on purpose, and in which way; `data` as in run.json."""
    kind = {"symmetric": "a random other class", "pair": "the one other class that their own is taken for"}
    counts = [
        f"{data[wrong]} of the {data[all_of]} {which} labels"
        for wrong, all_of, which in (("wrong_labels", "train", "training"), ("wrong_val_labels", "val", "validation"))
        if data.get(wrong)
    ]
    return f"label noise: {' and '.join(counts)} are {kind[recipe.label_noise_kind]}" if counts else ""


def _folds(recipe: Recipe, count: int, chosen: bool) -> str:
    """What is done instead of holding images out, for the line before a run of `count` images."""
    if not recipe.folds:
        return ""
    part = "two thirds" if recipe.folds == 3 else "half" if recipe.folds == 2 else f"{recipe.folds - 1}/{recipe.folds}"
    few = f"{count:,} images are few: none" if chosen else f"of {count:,} images none"
    return (
        f"{few} is held out; {recipe.folds}-fold cross-validation judges ({recipe.folds} trainings of {part}, then one "
        "of all)"
    )


def _masking(recipe: Recipe) -> str:
    if anchored_arguments(recipe.objective) is None:
        return ""
    share, target = masking(recipe.objective)
    return f"references masked: {100 * share:g} %, target {target}" if share else "references are not masked"


def _probe(record: dict[str, Any] | None, images: int) -> str:
    if record is None:
        return ""
    if "accuracy" not in record:
        return (
            f"linear probe of the frozen network: fitted on {record['images']} in {record['seconds']:.0f} s; training "
            "starts from it, and nothing worse in the folds is kept"
        )
    few = ""
    if "folds" in record:
        few = (
            f"; {100 * record['fold_accuracy']:.1f} % of those {record['images']} in {record['folds']}-fold "
            "cross-validation, which tells more than so few validation images"
        )
    return (
        f"linear probe of the frozen network: {100 * record['accuracy']:.1f} % of {images} validation images, fitted "
        f"on {record['images']} in {record['seconds']:.0f} s{few}; training starts from it, and nothing worse on the "
        "validation images is kept"
    )


def about_bank(recipe: Recipe) -> str:
    """Which accuracy the line of an epoch has and which the last one; nothing where they are the same."""
    if not recipe.anchored or recipe.references == 1:
        return ""
    return (
        "epochs are validated with the first reference of the bank alone, which is quick; the last line and the model "
        f"have the mean over all {recipe.references}, which is often more accurate"
    )


def _attack(recipe: Recipe, objective: nn.Module) -> str:
    attack = ball(objective)
    if attack is None:
        return ""
    eps, before = print_ball(attack.eps, attack.norm), trained_eps(recipe)
    other = "" if before in (None, eps) else f"; what it starts from was trained at {before}"
    off = "" if recipe.val_pgd_steps else "; validation images are not attacked, so the last epoch is kept"
    return f"trained on images under {attack.phrase}, eps {eps}{other}{off}"


def remarks(
    recipe: Recipe,
    train: ImageSet,
    val: ImageSet,
    record: ImageRecord,
    handed_over: bool = False,
    leaking: dict[str, Any] | None = None,
) -> list[str]:
    """Sentences on the same image in two classes, on test images that are training images, on few validation images.

    `handed_over`: whether the images were, or the model to start from; `leaking`: as of `kedge.training.leaks`.
    """
    own_part = _own_part(recipe)
    continued = recipe.init_from is not None and not recipe.pretrained
    folds = why_no_folds(recipe, handed_over, own_part, continued) is None
    count = len(train) + len(val) if folds else None
    lines = [*_in_two_classes(train, val), *_in_the_test(recipe, train, record), *_too_few(val, own_part, count)]
    if words := about_leaks(leaking, recipe, own_part):
        lines.append(words)
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
        test = data.load(place, "test", size_of(train.image_shape), train.image_shape[0])
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
