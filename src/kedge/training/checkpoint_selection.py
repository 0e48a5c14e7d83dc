"""Which weights a run keeps: the last, the best under attack, or an average with the start, none below the start."""

import copy
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.checkpoint import read_config
from kedge.data import ImageSet
from kedge.data.statistics import NormBatches
from kedge.postprocess import trained_through
from kedge.pretrained import read_weights
from kedge.training.batches import crop_of
from kedge.training.calibration import run_logits
from kedge.training.folder import RunFolder
from kedge.training.module import Run
from kedge.training.objective import equal_classes
from kedge.training.recipe import Recipe
from kedge.training.recorded import recorded, recorded_facts
from kedge.training.start_from import find_start, run_of
from kedge.training.validation import attacks
from kedge.weights.batch_norm import Attack, same_statistics
from kedge.weights.wise_ft import between

__all__ = [
    "models_to_save",
    "most_trained",
    "norm_batches",
    "not_below_start",
    "on_the_way",
    "share_right",
    "start_of",
    "trainings_in",
]

log = logging.getLogger("kedge")
BY_CLASS = "in the mean of the classes"
SHARES = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1)  # of the trained weights, in the averages that are tried


def models_to_save(
    run: Run, last: PixelModel, folder: RunFolder
) -> tuple[dict[str, PixelModel], dict[str, Any] | None]:
    """The models to save, "model" and beside it "last" or "best" where they differ, and the record of their robustness.

    `last` holds the weights of the last epoch. The record is None unless validation images were attacked.
    """
    recipe, attack = run.recipe, run.validation.attack
    models = {"model": last}
    record: dict[str, Any] | None = None
    rows, top = folder.rows(), folder.best_row()
    if attack is not None and top is not None:
        record = {
            "eps": attack.eps,
            "norm": attack.norm,
            "steps": attack.steps,
            "images": min(recipe.val_pgd_images, len(run.val_set)),
            "anchored": last.count() > 0,
            "kept": recipe.keep,
            **{name: _row(row) for name, row in (("best", top), ("last", rows[-1]))},
        }
        # A copy also where the best is the last: each gets a temperature and a threshold of its own.
        best = copy.deepcopy(last)
        if top["epoch"] != rows[-1]["epoch"]:
            best.load_state_dict(_weights(folder, top["epoch"]))
        models = {"model": best, "last": last} if recipe.keep == "best" else {"model": last, "best": best}
    if recipe.average is not None:
        # What was averaged stays too: the other end for any other share.
        models = {**({"best": best} if record else {}), "last": last, "model": _average(run, models["model"], folder)}
        if attack is not None and record is not None:
            pgd = run.validation.under_attack(models["model"], run.val_set, torch.device(recipe.device))
            record["averaged"] = {"share": recipe.average, "pgd": pgd}
    return models, record


def _row(row: dict[str, Any]) -> dict[str, Any]:
    return {"epoch": row["epoch"], "accuracy": row["val_accuracy"], "pgd": row["val_pgd"]}


def _weights(folder: RunFolder, epoch: int) -> dict[str, torch.Tensor]:
    try:
        return load_file(folder.best(epoch))
    except (OSError, SafetensorError) as error:
        raise ValueError(
            f"{folder.best(epoch)}, the weights of epoch {epoch}, best under attack, cannot be read ({error}). "
            f"Delete {folder.checkpoint} to train again from the start with --resume {folder.path}"
        ) from error


def _average(run: Run, trained: PixelModel, folder: RunFolder) -> PixelModel:
    share = run.recipe.average
    assert share is not None
    attack = next(iter(attacks(run.objective)), None)  # what the trained end's own statistics are of
    # A copy, as what was averaged is kept too, with a temperature and a threshold of its own.
    return on_the_way(start_of(trained, folder), copy.deepcopy(trained), share, run.recipe, run.train_set, attack)


def norm_batches(recipe: Recipe, train: ImageSet) -> NormBatches:
    """Training images, augmented as the run augments them, for the batch-norm statistics of averaged weights."""
    assert recipe.batch_size is not None
    return NormBatches(
        train.sample,
        recipe.batch_size,
        recipe.augment,
        workers=recipe.workers,
        seed=recipe.seed,
        crop=crop_of(recipe),
    )


def not_below_start(run: Run, trained: PixelModel, folder: RunFolder) -> tuple[PixelModel, dict[str, Any]]:
    """The trained model, unless the one it started from is right more often on the validation images.

    Then the average of their weights (Wortsman et al., arXiv 2109.01903) with the most of the trained ones that is
    right as often as the start, else the start. `trained` is on the CPU or the device of the run, and is not changed.
    Where the recipe makes every class count the same, the mean of the classes' shares of right answers decides.

    Returns:
        The model, and the record: accuracy of start and trained, which share of the trained weights was kept.
    """
    start = start_of(trained, folder)
    model, by_class = trained, equal_classes(run.recipe, run.train_set)

    def accuracy(share: float) -> float:
        nonlocal model
        model = on_the_way(start, trained, share, run.recipe, run.train_set)
        return _accuracy(run, model, by_class)

    share, accuracies = most_trained(accuracy)
    if share in (0.0, 1.0):
        model = trained if share else start
    if share < 1:
        which = "the start" if share == 0 else f"the average with {share:g} of the trained weights"
        log.warning(
            "training ended below its start on the validation images%s: %.1f against %.1f %%; kept is %s, %.1f %%",
            f", {BY_CLASS}" if by_class else "",
            *(100 * accuracies[1.0], 100 * accuracies[0.0], which, 100 * accuracies[share]),
        )
    record: dict[str, Any] = {"by_class": True} if by_class else {}
    record |= {"start": accuracies[0.0], "trained": accuracies[1.0], "share": share, "accuracy": accuracies[share]}
    return model, record


def most_trained(accuracy: Callable[[float], float]) -> tuple[float, dict[float, float]]:
    """The largest share of the trained weights, 1 or one of nine, that is right as often as none of them; else 0.

    Not the best of them: that is chance where few images judge, and takes back more of the training. Gives what
    `accuracy` said of each share that it was asked of, too.
    """
    accuracies = {1.0: accuracy(1.0), 0.0: accuracy(0.0)}
    if accuracies[1.0] >= accuracies[0.0]:
        return 1.0, accuracies
    for share in SHARES:
        accuracies[share] = accuracy(share)
        if accuracies[share] >= accuracies[0.0]:
            return share, accuracies
    return 0.0, accuracies


def trainings_in(folder: Path) -> list[Path]:
    """The runs that trained the weights of a model folder: its own, and that of a start which it is an average with.

    The start is looked for where the recipe says; of one that is not there any more nothing is known.
    """
    runs: list[Path] = []
    run = run_of(folder)
    while run is not None and run not in runs:
        if folder.resolve().name != "start":  # which is not trained by the run that it is in
            runs.append(run)
        if not _averaged(folder, run):
            break
        try:
            start = find_start(str(recorded(run).get("init_from")))
        except (OSError, ValueError):
            break
        folder, run = start or folder, None if start is None else run_of(start)
    return runs


def _averaged(folder: Path, run: Path) -> bool:
    """Whether a model of a run has weights of what the run started from, which were not trained in it."""
    if (name := folder.resolve().name) != "model":
        return name == "start"
    facts = recorded_facts(run) if (run / "run.json").is_file() else {}
    shares = [(facts.get(key) or {}).get("share", 1) for key in ("start", "folds")]
    return min(shares) < 1 or recorded(run).get("average") is not None


def start_of(trained: PixelModel, folder: RunFolder) -> PixelModel:
    """The model that a run began with, by the weights and the map of its logits in its folder."""
    start = copy.deepcopy(trained)
    start.load_state_dict(read_weights(folder.start / "model.safetensors"))
    start.steps = trained_through(read_config(folder.start).get("steps") or {})
    return start


def on_the_way(
    start: PixelModel,
    trained: PixelModel,
    share: float,
    recipe: Recipe,
    train: ImageSet,
    attack: Attack | None = None,
) -> PixelModel:
    """The average with `share` of the trained weights, with statistics of batch norm of its own; an end as it is.

    `attack`: that of the training, where the trained end's statistics are of attacked images.
    """
    if share in (0.0, 1.0):
        return trained if share else start
    # Nothing is copied for an estimate that frozen statistics need not: this is asked for up to nine shares.
    batches = None if same_statistics(start, trained) else norm_batches(recipe, train)
    model: PixelModel = between(start, trained, share, batches, recipe.seed, attack)
    return model


def _accuracy(run: Run, model: PixelModel, by_class: bool) -> float:
    return share_right(*run_logits(model, run.val_set, run.recipe), by_class)


def share_right(logits: Tensor, labels: Tensor, by_class: bool = False) -> float:
    """The share of right answers, of logits `[N, C]` to labels `[N]`; `by_class`: the mean of the classes' shares."""
    right = (logits.argmax(1) == labels).double()
    if not by_class:
        return float(right.mean())
    images = torch.bincount(labels)
    return float((torch.bincount(labels, right) / images)[images > 0].mean())
