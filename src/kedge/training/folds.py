"""Cross-validation of a run on few images: all are trained on, each is judged by a model that did not see it."""

import copy
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.anchoring.prototypes import nearest
from kedge.binomial import folds_interval
from kedge.data import Groups, ImageSet
from kedge.data.splitting import uniform, units
from kedge.postprocess import trained_through
from kedge.training.calibration import judge, measures, rows_at_a_time, run_logits
from kedge.training.checkpoint_selection import BY_CLASS, most_trained, on_the_way, share_right, start_of
from kedge.training.epochs import AtomicCheckpoints
from kedge.training.errors import TrainingStopped
from kedge.training.folder import RunFolder
from kedge.training.groups import groups_of
from kedge.training.objective import equal_classes
from kedge.training.recipe import Recipe, held_by
from kedge.training.unknown_choice import outputs_on, prototypes_of, set_unknown

# (recipe, or what may change of it; the folder to go on with; images; number of the fold) -> (model, recipe as it ran)
TrainFold = Callable[[Recipe | dict[str, Any], Path | None, tuple[ImageSet, ImageSet], int], tuple[PixelModel, Recipe]]

__all__ = ["Pooled", "about_first", "cross_validate", "fold_folder", "fold_places", "places_in", "sweep_folds"]


@dataclass(frozen=True)
class Pooled:
    """What the folds say together.

    Attributes:
        logits: [N, C], of each image by the model of the other folds.
        images: the N images, fold after fold.
        familiarity: [N], how near each image's features are to the prototypes of the training images of the other
            folds, by their model; None without features.
        share: of the trained weights in the average that is right as often as the start.
        record: for run.json: how many folds and images, share, accuracy of start, trained and kept, and of each fold.
    """

    logits: Tensor
    images: ImageSet
    share: float
    record: dict[str, Any]
    familiarity: Tensor | None = None

    @property
    def first(self) -> ImageSet:
        """The images of the first fold."""
        return self.images.subset(range(self.record["each"][0]["images"]))


@dataclass(frozen=True)
class _Fold:
    """One of the runs: its folder and recipe, what it began with, if it is a trained model, and what it came to."""

    folder: RunFolder
    recipe: Recipe
    start: PixelModel | None
    trained: PixelModel
    train: ImageSet
    val: ImageSet

    def averaged(self, share: float) -> PixelModel:
        """The average with `share` of the trained weights."""
        if self.start is None:
            return self.trained
        return on_the_way(self.start, self.trained, share, self.recipe, self.train)

    def logits(self, share: float) -> Tensor:
        """Of its own fold, by the average with `share` of the trained weights."""
        model = self.averaged(share)
        logits = run_logits(model, self.val, self.recipe)[0]
        model.cpu()
        return logits

    def familiarity(self, share: float) -> Tensor | None:
        """Of its own fold, [n], by the same average and its prototypes of what it was trained on; None without any."""
        if self.recipe.familiar is None:
            return None
        model = copy.deepcopy(self.averaged(share)).to(torch.device(self.recipe.device))
        how = {"batch_size": rows_at_a_time(self.recipe), "workers": self.recipe.workers or 0}
        trained = outputs_on(model, self.train, references=1, **how).features
        own = outputs_on(model, self.val, **how).features
        if trained is None or own is None:
            return None
        return nearest(own, prototypes_of(trained, self.train.labels))


def fold_places(images: ImageSet, folds: int, seed: int, groups: Groups | None = None) -> list[Tensor]:
    """Where the images of each fold are in the set, long [n], by what is in them; each class spread over the folds.

    Their order and names decide nothing. Equal images go together, and with `groups` those of a group. A class with a
    single different image or group stays in training with it, as do images that cannot be read: they are in no fold.

    Raises:
        ValueError: if there are fewer images to judge by than folds.
    """
    keys, labels = units(images, groups), images.labels.tolist()
    u = uniform(keys, seed).tolist()
    of_class: dict[int, set[bytes]] = {}
    for key, label in zip(keys, labels, strict=True):
        if key:
            of_class.setdefault(label, set()).add(key)
    by_hash = dict(zip(keys, u, strict=True))
    fold_of: dict[bytes, int] = {}
    dealt = 0  # on from class to class, so that the folds are of one size
    for label in sorted(of_class):
        for key in sorted(of_class[label] - fold_of.keys(), key=lambda k: (by_hash[k], k)):
            fold_of[key] = dealt % folds
            dealt += 1
    for own in of_class.values():  # all of it in one fold, as of a single image
        if len({fold_of[key] for key in own if key in fold_of}) == 1:
            for key in own:
                fold_of.pop(key, None)
    places = [[i for i, key in enumerate(keys) if fold_of.get(key) == fold] for fold in range(folds)]
    if not all(places):
        judged, kind = sum(map(len, places)), "ones" if groups is None else f"groups by {groups.by}"
        advice = "take fewer folds, or add images" if judged else "add images, or a part val to judge by"
        raise ValueError(
            f"folds is {folds}, but there are only {judged} images to judge by (of classes with two different {kind} "
            f"or more, of {len(keys)} images): {advice}"
        )
    return [torch.tensor(each) for each in places]


def places_in(recipe: Recipe, images: ImageSet) -> list[Tensor]:
    """`fold_places` of a run, as its recipe says."""
    assert recipe.folds is not None
    return fold_places(images, recipe.folds, held_by(vars(recipe)), groups_of(recipe, images))


def fold_folder(run: Path, number: int) -> Path:
    """The folder of the run of a fold, which are numbered from 1."""
    return run / "folds" / str(number)


def cross_validate(recipe: Recipe, images: ImageSet, run: Path, train_fold: TrainFold, lines: bool) -> Pooled:
    """Train a model for each fold on the others, or go on with what is in the run's folder, and judge it on its own.

    Starts and trained weights are averaged alike in all folds: with the share that `most_trained` gives for the
    accuracy of all images together. That average, with the threshold and the temperature of all folds, is what each
    hands over. `lines`: print one for each fold.
    """
    assert recipe.folds is not None
    places = places_in(recipe, images)
    folds = []
    for number, places_of in enumerate(places, 1):
        others = torch.ones(len(images), dtype=torch.bool)
        others[places_of] = False
        train, val = images.subset(others), images.subset(places_of)
        train.split, val.split = "train", "val"
        own = _recipe_of(recipe, len(train), len(images), fold_folder(run, number))
        began = time.monotonic()
        folds.append(_trained(own, train, val, run, number, train_fold))
        if lines:
            print(
                f"fold {number} of {recipe.folds}: {len(train)} images to train on, {len(val)} to judge by "
                f"({time.monotonic() - began:.0f} s)",
                flush=True,
            )
    judged = images.subset(torch.cat(places))
    judged.split = "val"
    if lines:
        print("the folds are trained: they are judged together", flush=True)
    pooled = _pooled(folds, judged, len(images))
    _hand_over(folds, pooled, recipe)
    if lines:
        print(_summary(pooled.record), flush=True)
    return pooled


def _summary(record: dict[str, Any]) -> str:
    """What the folds say together, in a line."""
    alone = record["of"] - record["images"]
    apart = f"; {alone} more in no fold: alone in a class, or unreadable" if alone else ""
    if "start" not in record:
        return f"{100 * record['accuracy']:.1f} % of the {record['images']} images of all folds are right{apart}"
    what = {1.0: "the trained weights are kept", 0.0: "the start is kept"}.get(
        record["share"], f"the average with {record['share']:g} of the trained weights is kept"
    )
    if (means := record.get("by_class")) is not None:
        what = f"{BY_CLASS} {100 * means['start']:.1f} and {100 * means['trained']:.1f} %, so {what}"
    return (
        f"of the {record['images']} images of all folds the start has {100 * record['start']:.1f} % right, training "
        f"{100 * record['trained']:.1f} %: {what}, {100 * record['accuracy']:.1f} %{apart}"
    )


def about_first(run: Path, record: dict[str, Any]) -> tuple[str, str]:
    """(what to call the model of the first fold, what the page of the run says of it)."""
    count, first = record["folds"], record["each"][0]
    right, images = round(record["accuracy"] * record["images"]), record["images"]
    low, high = folds_interval(right, images)
    others = ", ".join(str(fold_folder(run, number)) for number in range(2, count + 1))
    return f"{run.resolve().name}, fold 1 of {count}", (
        f"This page is of the model of the first of {count} folds: it was trained on {first['train']} images and is "
        f"judged here by {first['images']} others. The model that the run handed over was trained on all "
        f"{record['of']}, and none is left to judge it by. What is known of it is the accuracy over all folds, where "
        f"each image is judged by a model that was not trained on it: {100 * record['accuracy']:.1f} % of {images} "
        f"images (95 % interval {100 * low:.1f} to {100 * high:.1f} %). The models of the other folds: {others}."
    )


def _recipe_of(recipe: Recipe, count: int, of: int, folder: Path) -> Recipe:
    """The recipe of a fold with `count` images: that of the run, with as many steps in an epoch."""
    assert recipe.batch_size is not None
    batch = max(2, -(-count // -(-of // recipe.batch_size)))
    return replace(
        recipe,
        folds=0,
        name=folder.name,
        runs=str(folder.parent),
        imbalance={},  # these images are what it left
        split_by=None,  # and what the groups left
        batch_size=batch,
        references=min(recipe.references, count),
        residuals=min(recipe.residuals, count),
        snapshots=0,
        # Logits are pooled as they are, and the threshold is of all folds.
        temperature=False,
        risk=None,
    )


def sweep_folds(run: Path) -> None:
    """Delete what only a run that is not over needs of its folds: their checkpoints, and what they began with."""
    for path in run.glob("folds/*/last.ckpt*"):
        path.unlink(missing_ok=True)
    for start in run.glob("folds/*/start"):
        shutil.rmtree(start, ignore_errors=True)


def _hand_over(folds: list[_Fold], pooled: Pooled, recipe: Recipe) -> None:
    """Save what each fold is judged as, in place of what it trained, and say so in its run.json."""
    start = 0
    for fold in folds:
        model, labels = copy.deepcopy(fold.averaged(pooled.share)).cpu(), pooled.images.labels
        judge(model, recipe, pooled.images, pooled.logits, labels, warn=False)
        set_unknown(model, recipe, fold.train, pooled.images, pooled=(pooled.logits, pooled.familiarity))
        own = slice(start, start := start + len(fold.val))
        temperature = model.steps["temperature"]["value"] if recipe.temperature else 1.0
        checkpoint.save(model, fold.folder.model)
        measured = measures(pooled.logits[own] / temperature, labels[own])
        facts = {**fold.folder.facts(), "validation": measured, "reject": model.reject, "steps": model.steps}
        fold.folder.write_facts({**facts, "unknown": model.unknown, "share": pooled.share})


def _trained(recipe: Recipe, train: ImageSet, val: ImageSet, run: Path, number: int, train_fold: TrainFold) -> _Fold:
    assert recipe.name is not None
    folder = RunFolder(Path(recipe.runs) / recipe.name)
    begun = folder.checkpoint.is_file()
    if not begun and folder.path.exists():  # killed before its first epoch was over, or swept
        shutil.rmtree(folder.path)
    now = {"device": recipe.device, "workers": recipe.workers, "cache": recipe.cache, "epochs": recipe.epochs}
    try:
        model, resolved = train_fold(now if begun else recipe, folder.path if begun else None, (train, val), number)
    except (KeyboardInterrupt, TrainingStopped) as error:  # who goes on with the run goes on with its folds
        words = str(error).replace(str(folder.path), str(run))
        raise type(error)(f"fold {recipe.name}: {words}") from error
    trained = copy.deepcopy(model)
    # What the run handed over may be an average already, with a temperature.
    for step in [name for name in trained.steps if name not in trained_through(trained.steps)]:
        trained.remove_step(step)
    state = AtomicCheckpoints().load_checkpoint(folder.checkpoint)["state_dict"]
    prefix = "ema.module." if recipe.ema is not None else "model."
    trained.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
    start = start_of(trained, folder) if folder.has_start else None
    return _Fold(folder, resolved, start, trained, train, val)


def _pooled(folds: list[_Fold], images: ImageSet, count: int) -> Pooled:
    labels = images.labels
    of_share: dict[float, list[Tensor]] = {}

    def logits(share: float) -> list[Tensor]:
        if share not in of_share:
            of_share[share] = [fold.logits(share) for fold in folds]
        return of_share[share]

    def accuracy(share: float, by_class: bool = False) -> float:
        return share_right(torch.cat(logits(share)), labels, by_class)

    begun = all(fold.start is not None for fold in folds)
    by_class = begun and equal_classes(folds[0].recipe, folds[0].train)
    share, judged = most_trained(partial(accuracy, by_class=by_class)) if begun else (1.0, {})
    ends = {"start": 0.0, "trained": 1.0, "accuracy": share} if begun else {"accuracy": share}
    each = [
        {
            "folder": str(fold_folder(Path(), number)),
            "train": len(fold.train),
            "images": len(fold.val),
            **{name: share_right(logits(at)[number - 1], fold.val.labels) for name, at in ends.items()},
        }
        for number, fold in enumerate(folds, 1)
    ]
    record: dict[str, Any] = {"folds": len(folds), "images": len(images), "of": count, "share": share}
    record |= {name: accuracy(at) for name, at in ends.items()} | {"each": each}
    if by_class:
        record["by_class"] = {name: judged[at] for name, at in ends.items()}
    near = [fold.familiarity(share) for fold in folds]
    familiarity = None if any(each is None for each in near) else torch.cat(near)  # type: ignore[arg-type]
    return Pooled(torch.cat(logits(share)), images, share, record, familiarity)
