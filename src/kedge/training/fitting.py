"""fit(): run a recipe from its beginning, or from its last checkpoint, to a model in a folder."""

import logging
from collections.abc import Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import nn

from kedge import own_code
from kedge.anchoring import PixelModel
from kedge.checkpoint import save
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.training.banner import opening, remarks
from kedge.training.batches import drawn_images
from kedge.training.build import check_stages, check_steps
from kedge.training.cost import check_room, costs
from kedge.training.epochs import quiet, train_epochs
from kedge.training.errors import explained
from kedge.training.facts import EarlierRun, check_run, first_facts, go_on
from kedge.training.folder import RunFolder
from kedge.training.folds import TrainFold, cross_validate, places_in
from kedge.training.images import (
    about_extra,
    about_images,
    check_same_images,
    load_extra,
    record_of,
    with_extra,
    with_wrong_labels,
)
from kedge.training.labelled import check_labelled
from kedge.training.leaks import leaks
from kedge.training.module import Run
from kedge.training.named_models import NamedModels
from kedge.training.negatives import check_negatives, held_out_negatives
from kedge.training.objective import make_objective
from kedge.training.outcome import Page, RunResult, finish, finished
from kedge.training.prepare import InMemory, prepare
from kedge.training.recipe import Recipe, load_recipe
from kedge.training.record import ImageRecord
from kedge.training.sharding import check_shardable
from kedge.training.start_from import with_steps
from kedge.training.validation import ball

__all__ = ["RunResult", "fit"]

log = logging.getLogger("kedge")
PAGE = "kedge.run_page"  # measures and draws, above training: looked up by name, and only where a page is wanted


def fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None" = None,
    *,
    resume: str | Path | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    start: PixelModel | None = None,
    extra: Mapping[str, ImageSet] | None = None,
    models: Mapping[str, nn.Module] | None = None,
    judged: bool = True,
    progress: bool = True,
    report: bool | Page = True,
    allow_code: bool | None = None,
) -> RunResult:
    """Train by a recipe: a Recipe, a file, the name of a shipped one, or a mapping; None is the default one.

    Args:
        recipe: what to run. With `resume` only device, devices, nodes, workers, shard, cache and cache_gb may differ
            from the run's own, and epochs may be more where nothing else in it depends on how many there are.
        resume: the folder of a run that was broken off; it goes on after its last whole epoch and ends with the
            weights that it would have had, on the same machine and library versions. Of a run that is over it makes
            what is missing: the model, metrics.csv, and with `report` the page.
        sets: training and validation images, in place of those that `recipe.data` names.
        start: a model in memory to train on from, a copy of it, with the classes and the shape of the images; its bank
            is its own, and what `recipe.init_from` says is then only where it came from. The run keeps it in its folder
            start and can be resumed; with a network that has no name in timm or torchvision only if it is handed over
            again.
        extra: further images by name, in place of those that `recipe.extra` names; a run that goes on needs them again.
        models: models in memory for the objective, by the name of the argument that takes one, such as `teacher`, in
            place of one that the recipe names; a run that goes on needs them again.
        judged: whether the trained weights are held against those that the run starts from. False where the validation
            images are training images, on which a head that was fitted to them is nearly always right.
        progress: print a line per epoch, and show a bar on a terminal.
        report: write report.html in the end, which takes some seconds; or what does so, as kedge.run_page does.
        allow_code: whether classes that the recipe names as module:Class may be imported, and so run. None: those of a
            Recipe or a mapping, which the calling program made; not those of a file or of a run that goes on, unless
            `kedge.own_code.allow_code()` is around the call.

    Raises:
        ValueError: a recipe, data or checkpoint that cannot work, or that is not what a run to be resumed wrote; code
            that is not allowed.
        FileExistsError: the run's folder is there already.
        TrainingStopped: a loss that is not finite, no memory left, a full disk.
        KeyboardInterrupt: with a message that says how to go on.
    """
    memory = InMemory(sets, start, extra or {}, models or {}, judged)
    return _fit(recipe, resume, memory, progress, report, allow_code, times=float(progress))


def _fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None",
    resume: str | Path | None,
    memory: InMemory,
    progress: bool = True,
    report: bool | Page = True,
    allow_code: bool | None = None,
    fold: int | None = None,
    times: float = 0.0,
) -> RunResult:
    """As `fit`; `fold` is the number of a fold: its validation images judge, and decide nothing.

    `times`: how many times as long as this training all takes, for the estimate of that; 0 leaves it out.
    """
    page = import_module(PAGE).write_run_report if report is True else report or None
    main = getattr(rank_zero_only, "rank", 0) == 0  # false in the other processes of torchrun or Lightning
    for images, what in zip(memory.sets or (), ("training images", "validation images"), strict=False):
        check_set(images, what)
    if memory.start is not None and not isinstance(memory.start, PixelModel):
        raise TypeError(
            f"start is a model of kedge, got {type(memory.start).__name__}; init_from in the recipe names one"
        )
    if allow_code is None:
        allow_code = (resume is None and isinstance(recipe, Recipe | dict)) or own_code.is_allowed()
    with torch.random.fork_rng(), quiet(), own_code.allow_code(allow_code), ExitStack() as claims:
        if resume is None:
            written = load_recipe(recipe if recipe is not None else Recipe())
            if main and written.name is not None:
                RunFolder.plan(written)  # a name that is taken is an error before the data is read
            return _run(written, None, memory, progress, page, main, fold, times)
        folder = RunFolder.open(resume)
        if main:
            claims.enter_context(folder.claimed())
            folder.sweep()
        written = folder.recipe(recipe if isinstance(recipe, Recipe | dict | None) else load_recipe(recipe))
        earlier = EarlierRun.read(folder, written)
        lines = check_run(earlier)
        if earlier.over:
            page = page if main else None
            return finished(folder, written, earlier.facts, earlier.rows, memory.sets, main and progress, page)
        for line in lines if main else []:
            log.warning("%s", line)
        return _run(written, earlier, memory, progress, page, main, fold, times)


def _run(
    written: Recipe,
    earlier: EarlierRun | None,
    memory: InMemory,
    progress: bool,
    page: Page | None,
    main: bool,
    fold: int | None = None,
    times: float = 0.0,
) -> RunResult:
    """Train, from the beginning or on from `earlier`."""
    before = {} if earlier is None else earlier.facts
    checkpoint = None if earlier is None else earlier.checkpoint
    fold = before.get("fold", fold)
    # It begins now, or was broken off before anything said which images it is on.
    begins = earlier is None or not earlier.knows_images
    plan = prepare(written, memory, earlier, fold, partial(print, flush=True) if main and progress else None)
    recipe, images, val = plan.recipe, plan.train, plan.val
    record = record_of(recipe, images, val, memory.start is not None) if main and begins else None
    # After the bank is chosen: it holds the same images with noise and without.
    train, val, wrong = with_wrong_labels(recipe, images, val)
    about = {**about_images(images, val), **wrong}
    named = NamedModels(memory.models, before.get("models", {}) if before.get("data") else None)
    # What a resumed run is made from, what the trained weights can be averaged with, and what an objective may ask.
    started = recipe.init_from is not None or memory.start is not None or plan.probe is not None
    started = started or (earlier is not None and earlier.folder.has_start)
    if recipe.average is not None and not started:
        raise ValueError(
            f"average {recipe.average:g} is with the linear probe of the published weights, and this run has none "
            "(head: leave, or a network without a linear last layer): leave average out"
        )
    objective = make_objective(recipe, train, memory.models, named.load, plan.model if started else None)
    extra = load_extra(recipe, train, val, memory.extra)
    if written.negatives is not None:
        check_negatives(written.negatives, extra, images)
    check_labelled(objective, extra, train)
    if record is not None and extra:
        record = with_extra(record, extra)
    about_further, negatives = about_extra(extra), None
    if written.negatives is not None or "negatives" in before:
        extra, negatives = held_out_negatives(extra, recipe)
    steps = plan.model.steps  # before an objective gives the model a map of its logits
    # What cannot be trained is said before a folder is made.
    run = Run(recipe, plan.model, objective, train, val, extra, negatives)
    check_stages(recipe, plan.model)
    drawn = drawn_images(recipe, train)
    check_steps(recipe, -(-drawn // (recipe.batch_size or drawn)))
    if recipe.shard:
        check_shardable(recipe, objective)
    facts = dict(before)
    if before.get("data"):
        check_same_images(before, about, about_further)
        if earlier is not None and earlier.grown:
            facts["cost"] = costs(recipe, objective, drawn, (before.get("cost") or {}).get("earlier"))
    else:
        facts |= first_facts(recipe, written, about, objective, drawn, plan.probe, memory.start is not None)
        known = {"fold": fold, "extra": about_further or None, "models": named.digests or None}
        known["negatives"] = None if negatives is None else {"held_out": len(negatives)}
        facts |= {key: value for key, value in known.items() if value is not None}
    folder = RunFolder(Path())  # of the other processes, which are told later
    if main:
        folder = RunFolder.plan(recipe) if earlier is None else earlier.folder
        check_room(recipe, plan.model, folder.path, checkpoint is not None, ball(objective) is not None)
        start = with_steps(plan.model, steps) if started else None
        if record is not None and progress and memory.sets is None:
            folds = places_in(recipe, images) if recipe.folds else ()
            facts |= {} if (leaking := leaks(images, val, folds)) is None else {"leaks": leaking}
        if earlier is None:
            facts = folder.create(recipe, facts, record, start)
        else:
            if record is not None:
                record.write(folder.path)
            if start is not None and not folder.has_start:
                save(start, folder.start)
            facts = go_on(folder, facts, recipe.epochs)
        folder.write_rows([] if earlier is None else earlier.rows)
        if progress:
            _say_first(run, folder, facts, record, named, memory)
    elif earlier is not None:
        folder = earlier.folder
    with folder.claimed() if main else nullcontext():
        pooled = None
        if recipe.folds:
            pooled = cross_validate(
                recipe, images, folder.path, _fold_trainer(memory, recipe.folds, progress), progress
            )
        run.last_good = str(checkpoint) if checkpoint else None
        try:
            folder = train_epochs(run, folder, checkpoint, progress, main, facts.get("digests", {}), times)
            if main and progress and fold is None:
                print("the epochs are over: what is kept, its thresholds and its page follow", flush=True)
            return finish(run, folder, facts, main, page, pooled, memory.judged)
        except Exception as error:
            words = explained(error, recipe.batch_size or 1, recipe.world, folder.path)
            if words is None:
                raise
            raise words from error


def _say_first(
    run: Run,
    folder: RunFolder,
    facts: dict[str, Any],
    record: ImageRecord | None,
    named: NamedModels,
    memory: InMemory,
) -> None:
    """Print what is to be known before the first epoch; of a run that goes on nothing twice about its images."""
    recipe, train, val = run.recipe, run.train_set, run.val_set
    loading = train.report
    if loading.skipped or loading.converted_grey or loading.converted_colour or loading.traits or loading.notes:
        print(f"{train.name} ({train.split}): {loading.summary()}")
    lines = [opening(recipe, folder, train, val, run.model, run.objective, facts)]
    if record is not None:
        handed_over = memory.sets is not None or memory.start is not None
        lines += remarks(recipe, train, val, record, handed_over, facts.get("leaks"))
        lines += named.remarks(train if recipe.folds else val, recipe.folds or 0)
    for line in lines:
        print(line, flush=True)


def _fold_trainer(memory: InMemory, folds: int, progress: bool) -> TrainFold:
    """What trains the model of a fold on `sets`, with the further images and the models of the whole run.

    With `progress` the first says how long all take: each is on (folds - 1)/folds of the images, the last one on all.
    """
    times = folds + folds / (folds - 1) if progress else 0.0

    def train_fold(
        recipe: Recipe | dict[str, Any], resume: Path | None, sets: tuple[ImageSet, ImageSet], number: int
    ) -> tuple[PixelModel, Recipe]:
        inside, allowed = replace(memory, sets=sets, start=None), own_code.is_allowed()
        result = _fit(recipe, resume, inside, False, False, allowed, number, times if number == 1 else 0.0)
        return result.model, result.recipe

    return train_fold
