"""Fine-tuning by the training room, and the average of its two ends."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from kedge import checkpoint
from kedge.adaptation.outcome import Settings, load_outcome, recipe_for
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.evaluation.model_selection import Measure, best
from kedge.own_code import code_in, is_allowed
from kedge.training.fitting import fit
from kedge.training.folder import RunFolder
from kedge.training.recipe import Recipe
from kedge.training.resolve import resolve_data, resolve_device, resolve_network
from kedge.weights.wise_ft import between, wise_ft_curve

__all__ = ["average", "tune"]

GENTLER = 0.1  # of the learning rate of fine-tuning from a fresh head, for a head that fits already
STEPS = 100  # at least, where there are few images
FEW = 1280  # training images below which batches are small and epochs many
BATCH = 32
ALPHAS = tuple(n / 10 for n in range(11))


def tune(
    start: PixelModel,
    train: ImageSet,
    val: ImageSet | None,
    how: str,
    out: Path,
    settings: Settings,
    record: dict[str, Any],
) -> PixelModel:
    """Train all weights of `start` in the run `out/how`, or go on with it if it was broken off.

    Without validation images the training images stand in for them, nothing is chosen by them, and no threshold is
    kept.
    """
    folder = out / how
    sets = (train, train if val is None else val)
    given: dict[str, Any] = {"sets": sets, "start": start, "progress": False, "report": False}
    if (folder / "recipe.yaml").is_file():
        # Code that the caller names is the caller's; what the folder alone names is not.
        own = set(code_in(RunFolder(folder).recipe().objective)) <= set(code_in(settings.objective))
        over = "finished" in RunFolder(folder).facts()
        result = None if over else fit(resume=folder, allow_code=own or is_allowed(), **given)
    else:
        result = fit(_plan(start, train, how, out, settings), **given)
    model = load_outcome(folder, start) if result is None else result.model
    facts = RunFolder(folder).facts()
    recipe = RunFolder(folder).recipe()
    record |= {"epochs": recipe.epochs, "lr": recipe.lr, "batch_size": recipe.batch_size, "optimizer": recipe.optimizer}
    if val is None:
        model.reject = None
        checkpoint.save(model, folder / "model")
        facts |= {"validation": {}, "reject": None}
        facts["data"] = {**facts["data"], "val": 0}
    RunFolder(folder).write_facts({**facts, "adaptation": record})
    return model


def _plan(start: PixelModel, train: ImageSet, how: str, out: Path, settings: Settings) -> Recipe:
    """The recipe, with what fine-tuning decides by the number of images and by the head it starts from."""
    recipe = recipe_for(start, how, out, train, settings)
    count = len(train)
    if count < FEW:
        batch = max(2, min(BATCH, count))
        epochs = settings.epochs or max(10, math.ceil(STEPS / math.ceil(count / batch)))
        recipe = replace(recipe, batch_size=batch, epochs=epochs)
    recipe = resolve_data(resolve_device(recipe), count, train.image_shape)
    recipe = resolve_network(recipe, start.network, count, train.image_shape)
    assert recipe.lr is not None
    return replace(recipe, lr=GENTLER * recipe.lr) if how == "lp-ft" else recipe


def average(
    probe: PixelModel,
    tuned: PixelModel,
    val: ImageSet | None,
    settings: Settings,
    record: dict[str, Any],
) -> PixelModel:
    """The model between the linear probe (share 0) and lp-ft (share 1), its batch-norm statistics estimated anew."""
    device = settings.torch_device()
    ends = probe.to(device), tuned.to(device)
    share = settings.share
    if isinstance(share, str):
        assert val is not None  # adapt() and study() ask before anything is trained
        measure = Measure(val, batch_size=settings.batch_size, workers=settings.workers, seed=settings.seed)
        rows = wise_ft_curve(*ends, ALPHAS, measure)
        share = best(rows, "clean")["alpha"]
        record["curve"] = [{"share": row["alpha"], "accuracy": row["clean"]} for row in rows]
    record["share"] = share
    made: PixelModel = between(*ends, share)
    return made.cpu()
