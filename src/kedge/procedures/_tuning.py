"""Fine-tuning by the training room."""

import math
from dataclasses import replace
from typing import Any

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.own_code import is_allowed
from kedge.procedures._base import Context
from kedge.procedures._outcome import load_outcome, recipe_for
from kedge.training.fitting import fit
from kedge.training.folder import RunFolder
from kedge.training.nested import code_of
from kedge.training.recipe import Recipe
from kedge.training.resolve import resolve

__all__ = ["tune"]

STEPS = 100  # at least, where there are few images
FEW = 1280  # training images below which batches are small and epochs many
BATCH = 32


def tune(context: Context, start: PixelModel, factor: float = 1.0) -> PixelModel:
    """Train all weights of `start` in the context's run folder, or go on with that if it was broken off.

    Without validation images the training images stand in for them, nothing is chosen by them, and no threshold is
    kept. `factor`: on the learning rate.
    """
    run, train, val = RunFolder(context.folder), context.train, context.val
    how: dict[str, Any] = {"sets": (train, train if val is None else val), "start": start}
    how |= {"progress": False, "report": False}
    if (run.path / "recipe.yaml").is_file():
        # Code that the caller names is the caller's; what the folder alone names is not.
        own = set(code_of(vars(run.recipe()))) <= set(code_of(vars(context.settings)))
        over = "finished" in run.facts()
        result = None if over else fit(resume=run.path, allow_code=own or is_allowed(), **how)
    else:
        result = fit(_plan(context, start, factor), **how)
    model = load_outcome(run.path, start) if result is None else result.model
    recipe = run.recipe()
    context.record |= {key: getattr(recipe, key) for key in ("epochs", "lr", "batch_size", "optimizer")}
    context.trained = True
    if val is None:
        facts = run.facts()
        model.reject = None
        checkpoint.save(model, run.model)
        run.write_facts({**facts, "validation": {}, "reject": None, "data": {**facts["data"], "val": 0}})
    return model


def _plan(context: Context, start: PixelModel, factor: float) -> Recipe:
    """The recipe, with what fine-tuning decides by the number of images."""
    train, settings = context.train, context.settings
    recipe, count = recipe_for(start, context.how, context.out, train, settings), len(train)
    if count < FEW:
        batch = max(2, min(BATCH, count))
        epochs = settings.epochs or max(10, math.ceil(STEPS / math.ceil(count / batch)))
        recipe = replace(recipe, batch_size=batch, epochs=epochs)
    lr = resolve(recipe, start.network, train).lr
    assert lr is not None
    return replace(recipe, lr=factor * lr)
