"""What stages are made of: a head fitted on a frozen body, or all weights trained by the training room."""

import math
from dataclasses import replace
from typing import Any

import torch

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.own_code import is_allowed
from kedge.probing.features import features
from kedge.probing.heads import find_head, with_head
from kedge.probing.probe import ProbeData, Resampled, fit_probe, fold_count, fold_logits
from kedge.probing.set_probe import FEW as FEW_TO_JUDGE
from kedge.probing.set_probe import smoothed_size
from kedge.procedures._base import Context
from kedge.procedures._folder import load_outcome, recipe_for
from kedge.training.calibration import predict_logits
from kedge.training.fitting import fit
from kedge.training.folder import RunFolder
from kedge.training.nested import code_of
from kedge.training.recipe import Recipe
from kedge.training.recorded import label_smoothing, recorded_facts
from kedge.training.resolve import resolve

__all__ = ["bank_features", "fit_head", "reading", "smoothed", "tune"]

STEPS = 100  # at least, where there are few images
FEW = 1280  # training images below which batches are small and epochs many
BATCH = 32


def tune(
    context: Context,
    start: PixelModel,
    factor: float = 1.0,
    scratch: bool = False,
    objective: list[Any] | None = None,
) -> PixelModel:
    """Train all weights of `start` in the context's run folder, or go on with that if it was broken off.

    Without validation images the training images stand in for them, nothing is chosen by them, and no threshold is
    kept.

    Args:
        context, start: as said.
        factor: on the learning rate.
        scratch: what learns has fresh weights: rate, epochs and batch norm are those of a new network.
        objective: of the procedure itself, in place of what the settings say of fine-tuning, `layer_lr` and `pull` too.
    """
    run, train, val = RunFolder(context.folder), context.train, context.val
    how: dict[str, Any] = {"sets": (train, train if val is None else val), "start": start}
    how |= {"judged": val is not None, "progress": False, "report": False}
    if (run.path / "recipe.yaml").is_file():
        # Code that the caller names is the caller's; what the folder alone names is not.
        own = set(code_of(vars(run.recipe()))) <= set(code_of(vars(context.settings)))
        over = "finished" in run.facts()
        result = None if over else fit(resume=run.path, allow_code=own or is_allowed(), **how)
    else:
        result = fit(_plan(context, start, factor, scratch, objective), **how)
    model = load_outcome(run.path, start) if result is None else result.model
    recipe = run.recipe()
    context.record |= {key: getattr(recipe, key) for key in ("epochs", "lr", "batch_size", "optimizer")}
    context.trained = True
    if val is None:
        facts = run.facts()
        model.reject = model.unknown = None
        checkpoint.save(model, run.model)
        run.write_facts(
            {**facts, "validation": {}, "reject": None, "unknown": None, "data": {**facts["data"], "val": 0}}
        )
    return model


def _plan(context: Context, start: PixelModel, factor: float, scratch: bool, objective: list[Any] | None) -> Recipe:
    """The recipe, with what fine-tuning decides by the number of images."""
    train, settings = context.train, context.settings
    if objective is not None:
        settings = replace(settings, objective=objective, layer_lr=None, pull=0.0)
    recipe, count = recipe_for(start, context.how, context.out, train, settings), len(train)
    if count < FEW:
        batch = max(2, min(BATCH, count))
        epochs = settings.epochs or max(10, math.ceil(STEPS / math.ceil(count / batch)))
        recipe = replace(recipe, batch_size=batch, epochs=epochs)
    resolved = resolve(replace(recipe, init_from=None) if scratch else recipe, start.network, train)
    assert resolved.lr is not None
    assert not isinstance(settings.layer_lr, str)  # what is to be searched has been, see `choose_layer_rates`
    recipe = replace(recipe, lr=factor * resolved.lr, layer_lr=settings.layer_lr or [])
    if scratch:
        epochs = max(recipe.epochs or 0, resolved.epochs or 0) if settings.epochs is None else settings.epochs
        recipe = replace(recipe, epochs=epochs, weight_decay=resolved.weight_decay, batch_norm="train")
    if settings.pull:
        pull = {"strength": settings.pull, "new_head": find_head(start, settings.head)}
        recipe = replace(recipe, objective=[{"PullTowards": pull}, *(resolved.objective or [])])
    return recipe


def reading(context: Context) -> dict[str, Any]:
    """How images are read where nothing is trained."""
    return {"batch_size": context.settings.batch_size, "workers": context.settings.workers}


def bank_features(
    context: Context, body: PixelModel, balanced: bool = False, resampled: Resampled | None = None
) -> ProbeData:
    """What the head of `body` reads of the training images; of an anchored one means over its bank.

    `balanced`, `resampled`: as in `ProbeData`.
    """
    head, train = find_head(body, context.settings.head), context.train
    if (bank := getattr(body, "references", None)) is not None:
        context.record["references"] = f"the mean over the bank of {len(bank)}, no image with itself"
    rows = features(body, head, train, others=True, **reading(context))
    return ProbeData(rows[None], train.labels, len(train.class_names), balanced=balanced, resampled=resampled)


def fit_head(context: Context, body: PixelModel, data: ProbeData, unseen: bool = True) -> PixelModel:
    """`body` with the best linear head on `data`; the record says how strongly it is regularised, and why.

    Of fewer than 30 validation images the NLL is chance, and folds of the training images choose; not where the body
    was trained on those itself (`unseen` False) or a class has a single one.
    """
    head, settings, val = find_head(body, context.settings.head), context.settings, context.val
    if val is not None and unseen and len(val) < FEW_TO_JUDGE and fold_count(data) >= 2:
        val = None
    validation = None if val is None else (features(body, head, val, **reading(context)), val.labels)
    layer: Any = body.network.get_submodule(head) if head else body.network
    probe = fit_probe(data, validation, settings.strength, layer.bias is not None)
    context.record |= {"strength": probe.strength, "chosen": probe.chosen}
    context.record["nll"] = {f"{strength:.3g}": nll for strength, nll in probe.nll.items()}
    return with_head(body.cpu(), head, context.train.class_names, probe.weight, probe.bias)


@torch.no_grad()
def smoothed(context: Context, probe: PixelModel) -> PixelModel:
    """The linear probe as a training with label smoothing wants to start from it; without smoothing as it is.

    In place its head is divided by the temperature at which its logits have the smallest such loss, as by `set_probe`:
    on validation images, of fewer than 30 or none by heads of the other folds of the training images: one wrong answer
    among three would make all logits small. No answer changes.
    """
    if not (smoothing := label_smoothing(context.settings.objective)):
        return probe
    name = find_head(probe, context.settings.head)
    layer: Any = probe.network.get_submodule(name) if name else probe.network
    if context.val is not None and len(context.val) >= FEW_TO_JUDGE:
        logits, labels = predict_logits(probe, context.val, **reading(context))
    else:
        strength = recorded_facts(context.out / "linear-probe")["adaptation"]["strength"]
        folds = fold_logits(bank_features(context, probe), strength, layer.bias is not None)
        if folds is None:  # a class of a single image
            return probe
        _, logits, labels = folds
    context.record["temperature"] = size = smoothed_size(logits, labels, smoothing)
    for parameter in layer.parameters():
        parameter /= size
    return probe
