"""Which weights a run keeps: the last, the best under attack on validation images, or an average with the start."""

import copy
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from kedge import checkpoint
from kedge.anchoring import AnchoredModel, PixelModel
from kedge.checks import answers_right
from kedge.data import ImageSet
from kedge.data.augment import CROP
from kedge.data.statistics import NormBatches
from kedge.training.folder import RunFolder
from kedge.training.module import Run, attacks
from kedge.training.recipe import Recipe
from kedge.weights.wise_ft import between

__all__ = ["kept_models", "norm_batches"]


def kept_models(run: Run, last: PixelModel, folder: RunFolder) -> tuple[dict[str, PixelModel], dict[str, Any] | None]:
    """The models to save, "model" and beside it "last" or "best" where they differ, and the record of their robustness.

    `last` holds the weights of the last epoch. The record is None unless validation images were attacked.
    """
    recipe, attack = run.recipe, run.attack
    models = {"model": last}
    record: dict[str, Any] | None = None
    rows, top = folder.rows(), folder.best_row()
    if attack is not None and top is not None:
        record = {
            "eps": attack.eps,
            "norm": attack.norm,
            "steps": attack.steps,
            "images": min(recipe.val_pgd_images, len(run.val_set)),
            "anchored": isinstance(last, AnchoredModel),
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
            record["averaged"] = {"share": recipe.average, "pgd": _under_attack(run, models["model"])}
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
    recipe = run.recipe
    assert recipe.average is not None
    start = checkpoint.load(folder.start).to(trained.mean.device)
    attack = next(iter(attacks(run.objective)), None)  # what the trained end's own statistics are of
    made: PixelModel = between(start, trained, recipe.average, norm_batches(recipe, run.train_set), recipe.seed, attack)
    return made


def norm_batches(recipe: Recipe, train: ImageSet) -> NormBatches:
    """Training images, augmented as the run augments them, for the batch-norm statistics of averaged weights."""
    assert recipe.batch_size is not None
    crop = CROP if recipe.crop is None else recipe.crop
    return NormBatches(
        train.sample, recipe.batch_size, recipe.augment, workers=recipe.workers, seed=recipe.seed, crop=crop
    )


@torch.no_grad()
def _under_attack(run: Run, model: PixelModel) -> float:
    """Accuracy under the attack of the validation epochs."""
    assert run.attack is not None
    device, done, right = torch.device(run.recipe.device), 0, 0
    model, places = model.to(device), run.attacked.nonzero()[:, 0]
    for images, labels in run.val_set.subset(places).batches(256):
        pixels, labels = images.to(device).float() / 255, labels.to(device)
        made = run.attack(model, pixels, labels, indices=places[done : done + len(labels)])
        right += int(answers_right(model(made), labels).sum())
        done += len(labels)
    return right / done
