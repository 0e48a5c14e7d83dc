"""fit(): run a recipe from its beginning, or from its last checkpoint, to a model in a folder."""

import logging
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn

import kedge
from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.networks import PretrainedUnavailable
from kedge.training.build import load_sets, make_model, make_network, make_objective
from kedge.training.callbacks import AtomicCheckpoints, Bar, EpochRows, LastCheckpoint
from kedge.training.finish import predict_logits, reject_rule, write_run_report
from kedge.training.folder import RunFolder, surroundings
from kedge.training.module import Run
from kedge.training.recipe import Recipe, load_recipe
from kedge.training.resolve import resolve_data, resolve_device, resolve_network
from kedge.training.stops import explained
from kedge.training.temperature import calibrate

__all__ = ["RunResult", "fit"]

log = logging.getLogger("kedge")
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


@dataclass
class RunResult:
    """What a run leaves.

    Attributes:
        folder: the run's folder.
        recipe: as it was run, nothing left open.
        model: the trained model in eval mode, on the CPU; the one in `folder/model`.
        history: a row per epoch, as in metrics.csv.
        validation: accuracy, nll and ece of the model with its whole bank on the validation images.
        report: the page, or None if it could not be made.
    """

    folder: Path
    recipe: Recipe
    model: PixelModel
    history: list[dict[str, Any]]
    validation: dict[str, float]
    report: Path | None


def fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None" = None,
    *,
    resume: str | Path | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    progress: bool = True,
) -> RunResult:
    """Train by a recipe: a Recipe, a file, the name of a shipped one, or a mapping; None is the default one.

    Args:
        recipe: what to run. With `resume` only device, devices and workers may differ from the run's own.
        resume: the folder of a run that was broken off; it goes on after its last whole epoch and ends with the
            weights that it would have had, on the same machine and library versions.
        sets: training and validation images, in place of those that `recipe.data` names.
        progress: print a line per epoch, and show a bar on a terminal.

    Raises:
        ValueError: a recipe, data or checkpoint that cannot work.
        FileExistsError: the run's folder is there already.
        TrainingStopped: a loss that is not finite, no memory left, a full disk.
        KeyboardInterrupt: with a message that says how to go on.
    """
    main = getattr(rank_zero_only, "rank", 0) == 0  # false in the other processes of torchrun or Lightning
    with torch.random.fork_rng(), _quiet():
        if resume is None:
            chosen = load_recipe(recipe if recipe is not None else Recipe())
            if main and chosen.name is not None:
                RunFolder.plan(chosen)  # a name that is taken is an error before the data is read
            return _run(chosen, None, sets, progress, main)
        folder = RunFolder.open(resume)
        chosen = folder.recipe(recipe if isinstance(recipe, Recipe | dict | None) else load_recipe(recipe))
        facts = folder.facts()
        if "finished" in facts:
            if main and progress:
                print(f"{folder.path} finished on {facts['finished']}: nothing is left to do")
            return _finished(folder, chosen)
        return _run(chosen, folder, sets, progress, main)


def _run(
    given: Recipe, earlier: RunFolder | None, sets: tuple[ImageSet, ImageSet] | None, progress: bool, main: bool
) -> RunResult:
    recipe = resolve_device(given)
    train, val = sets or load_sets(recipe)
    recipe = resolve_data(recipe, len(train), train.image_shape)
    checkpoint = earlier.checkpoint if earlier and earlier.checkpoint.is_file() else None
    network, recipe = _network(recipe, train, checkpoint is not None)
    recipe = resolve_network(recipe, network, train.image_shape)
    objective = make_objective(recipe, train)
    model = make_model(recipe, network, train)
    data = {"train": len(train), "val": len(val), "image_shape": list(train.image_shape), "classes": train.class_names}
    if earlier:
        folder, facts = earlier, earlier.facts()
        if facts.get("data") != data:
            raise ValueError(f"the data changed since the run began: {facts.get('data')} then, {data} now")
    else:
        folder = RunFolder.plan(recipe) if main else RunFolder(Path())
        facts = {**surroundings(), "seed": recipe.seed, "data": data, "given": asdict(given)}
        if main:
            folder.create(recipe, facts)
    if main:
        if progress:
            if (said := train.report).skipped or said.converted_grey or said.converted_colour or said.notes:
                print(f"{train.name} ({train.split}): {said.summary()}")
            print(_summary(recipe, folder, train, val, model), flush=True)
        folder.write_rows(folder.rows() if checkpoint else [])
    run = Run(recipe, model, objective, train, val)
    run.last_good = str(checkpoint) if checkpoint else None
    try:
        folder = _train(run, folder, checkpoint, progress, main)
        return _finish(run, folder, facts, main)
    except Exception as error:
        words = explained(error, recipe.batch_size or 1, recipe.devices)
        if words is None:
            raise
        raise words from error


def _network(recipe: Recipe, train: ImageSet, has_checkpoint: bool) -> tuple[nn.Module, Recipe]:
    """The network; where published weights cannot be had that is said, and the recipe becomes one without them."""
    if has_checkpoint:  # which holds the weights
        return make_network(replace(recipe, pretrained=False), train), recipe
    try:
        return make_network(recipe, train), recipe
    except PretrainedUnavailable as error:
        log.warning(
            "\n  *** %s\n  *** TRAINING FROM RANDOM WEIGHTS instead: expect a much lower accuracy, and train longer.\n",
            error,
        )
        recipe = replace(recipe, pretrained=False)
        return make_network(recipe, train), recipe


def _train(run: Run, folder: RunFolder, checkpoint: Path | None, progress: bool, main: bool) -> RunFolder:
    recipe = run.recipe
    assert recipe.batch_size is not None
    if recipe.device != "mps":  # faster on GPUs with bf16 and on CPUs
        run.to(memory_format=torch.channels_last)
    rows = EpochRows(folder, main, progress)
    callbacks: list[Callback] = [rows, LastCheckpoint(folder)]
    bar = progress and sys.stdout.isatty()
    if bar:
        callbacks.append(Bar(leave=False))
    trainer = Trainer(
        accelerator="gpu" if recipe.device == "cuda" else recipe.device,
        devices=recipe.devices,
        strategy="ddp" if recipe.devices > 1 else "auto",
        precision=PRECISIONS[recipe.precision],
        max_epochs=recipe.epochs,
        gradient_clip_val=recipe.clip,
        callbacks=callbacks,
        plugins=[AtomicCheckpoints()],
        logger=False,
        enable_progress_bar=bar,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        default_root_dir=folder.path,
    )
    try:
        trainer.fit(run, ckpt_path=checkpoint, weights_only=True)
        return rows.folder
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        where = f"after epoch {trainer.current_epoch}" if run.last_good else "before the first epoch was over"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        raise KeyboardInterrupt(f"interrupted {where}; go on with --resume {folder.path}") from error


def _finish(run: Run, folder: RunFolder, facts: dict[str, Any], main: bool) -> RunResult:
    recipe, model = run.recipe, run.evaluated
    model.to(memory_format=torch.contiguous_format)
    model.requires_grad_(True).eval()
    device = torch.device(recipe.device)
    assert recipe.batch_size is not None
    logits, labels = predict_logits(model.to(device), run.val_set, max(64, recipe.batch_size), recipe.workers or 0)
    model.cpu()
    model.reject = reject_rule(logits.softmax(1), labels, recipe.coverage, recipe.risk)
    if recipe.temperature:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            logits = logits / calibrate(model, run.val_set, measured=(logits, labels))["value"]
        for warning in said if main else []:
            log.warning("%s", warning.message)
    probs = logits.softmax(1)
    validation = {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
        "ece": float(metrics.calibration_error(probs, labels)),
    }
    report: Path | None = folder.report
    if main:
        if skipped := len(run.train_set.report.skipped):
            log.warning("unreadable images of %s that were left out: %d", run.train_set.name, skipped)
        kedge.save(model, folder.model)
        facts = {**facts, "validation": validation, "reject": model.reject, "steps": model.steps}
        facts["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        folder.write_facts(facts)
        try:
            write_run_report(model, folder.path, run.val_set, folder.report, recipe.seed)
        except Exception as error:  # the model is saved: a page that fails must not look like a run that failed
            log.warning("the report could not be made (%s: %s)", type(error).__name__, error)
            report = None
    return RunResult(folder.path, recipe, model, folder.rows() if main else [], validation, report)


def _finished(folder: RunFolder, recipe: Recipe) -> RunResult:
    report = folder.report if folder.report.is_file() else None
    validation = folder.facts().get("validation", {})
    return RunResult(folder.path, recipe, kedge.load(folder.model), folder.rows(), validation, report)


def _summary(recipe: Recipe, folder: RunFolder, train: ImageSet, val: ImageSet, model: nn.Module) -> str:
    size = sum(p.numel() for p in model.parameters()) / 1e6
    kind = "anchored " if recipe.anchored else ""
    start = "pretrained" if recipe.pretrained else "from random weights"
    return (
        f"{train.name}: {len(train)} images to train on, {len(val)} to validate, {len(train.class_names)} classes, "
        f"{'x'.join(str(n) for n in train.image_shape)}\n"
        f"{kind}{recipe.model}, {size:.1f} M parameters, {start}; {recipe.epochs} epochs of batches of "
        f"{recipe.batch_size}, {recipe.optimizer} at {recipe.lr:.3g}, on {recipe.devices} {recipe.device}, "
        f"precision {recipe.precision}\n"
        f"run folder: {folder.path}"
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Lightning's hints and adverts, and warnings about what is meant to be so, off the user's screen."""
    loggers = [
        logging.getLogger(n) for n in ("lightning.pytorch", "lightning.fabric", "lightning", "torch.distributed")
    ]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            warnings.filterwarnings("ignore", module=r"torch\.optim\.lr_scheduler")
            # A kernel over one channel has two layouts that are the same memory.
            warnings.filterwarnings("ignore", message="Grad strides do not match bucket view strides")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
