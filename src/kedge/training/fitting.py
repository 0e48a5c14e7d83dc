"""fit(): run a recipe from its beginning, or from its last checkpoint, to a model in a folder."""

import logging
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import nn

from kedge import own_code
from kedge.anchoring import PixelModel
from kedge.checkpoint import load, save
from kedge.data import ImageSet, with_label_noise
from kedge.data.sets import check_set
from kedge.layout import as_stored
from kedge.training.banner import about_left_out, left_out, opening, remarks
from kedge.training.build import check_steps
from kedge.training.calibration import judge, predict_logits
from kedge.training.checkpoint_selection import kept_models, not_below_start, on_the_way, start_of
from kedge.training.cost import check_room, costs
from kedge.training.epochs import quiet, train_epochs
from kedge.training.errors import explained
from kedge.training.extra import about_extra, check_extra, load_extra, with_extra
from kedge.training.facts import check_run, facts_of, first_facts, go_on, grown, rows_within, written_by_run
from kedge.training.folder import RunFolder, RunResult
from kedge.training.folds import Pooled, about_first, cross_validate, fold_folder, fold_places, sweep_folds
from kedge.training.images import record_of, resumed
from kedge.training.module import Run, ball
from kedge.training.named_models import NamedModels
from kedge.training.objective import make_objective
from kedge.training.prepare import prepare
from kedge.training.recipe import Recipe, held_by, load_recipe
from kedge.training.record import ImageRecord
from kedge.training.sharding import check_shardable

__all__ = ["RunResult", "fit"]

log = logging.getLogger("kedge")
Page = Callable[..., None]
PAGE = "kedge.run_page"  # measures and draws, above training: looked up by name, and only where a page is wanted


def fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None" = None,
    *,
    resume: str | Path | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    start: PixelModel | None = None,
    extra: Mapping[str, ImageSet] | None = None,
    models: Mapping[str, nn.Module] | None = None,
    progress: bool = True,
    report: bool | Page = True,
    allow_code: bool | None = None,
) -> RunResult:
    """Train by a recipe: a Recipe, a file, the name of a shipped one, or a mapping; None is the default one.

    Args:
        recipe: what to run. With `resume` only device, devices, nodes, workers and shard may differ from the run's own,
            and epochs may be more where nothing else in it depends on how many there are.
        resume: the folder of a run that was broken off; it goes on after its last whole epoch and ends with the
            weights that it would have had, on the same machine and library versions. Of a run that is over it makes
            what is missing: the model, metrics.csv, and with `report` the page.
        sets: training and validation images, in place of those that `recipe.data` names.
        start: a model in memory to train on from, a copy of it, with the classes and the shape of the images; what
            `recipe.init_from` says is then only where it came from. The run keeps it in its folder start and can be
            resumed; with a network that has no name in timm or torchvision only if it is handed over again.
        extra: further images by name, in place of those that `recipe.extra` names; a run that goes on needs them again.
        models: models in memory for the objective, by the name of the argument that takes one, such as `teacher`, in
            place of one that the recipe names; a run that goes on needs them again.
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
    return _fit(recipe, resume, sets, start, progress, report, allow_code, extra=extra, models=models)


def _fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None" = None,
    resume: str | Path | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    start: PixelModel | None = None,
    progress: bool = True,
    report: bool | Page = True,
    allow_code: bool | None = None,
    fold: int | None = None,
    extra: Mapping[str, ImageSet] | None = None,
    models: Mapping[str, nn.Module] | None = None,
) -> RunResult:
    """As `fit`; `fold` is the number of a fold: its validation images judge, and decide nothing."""
    page = import_module(PAGE).write_run_report if report is True else report or None
    main = getattr(rank_zero_only, "rank", 0) == 0  # false in the other processes of torchrun or Lightning
    for images, what in zip(sets or (), ("training images", "validation images"), strict=False):
        check_set(images, what)
    if start is not None and not isinstance(start, PixelModel):
        raise TypeError(f"start is a model of kedge, got {type(start).__name__}; init_from in the recipe names one")
    if allow_code is None:
        allow_code = (resume is None and isinstance(recipe, Recipe | dict)) or own_code.is_allowed()
    inside = (extra or {}, models or {})
    with torch.random.fork_rng(), quiet(), own_code.allow_code(allow_code), ExitStack() as claims:
        if resume is None:
            written = load_recipe(recipe if recipe is not None else Recipe())
            if main and written.name is not None:
                RunFolder.plan(written)  # a name that is taken is an error before the data is read
            return _run(written, None, sets, start, inside, progress, page, main, fold)
        folder = RunFolder.open(resume)
        if main:
            claims.enter_context(folder.claimed())
            folder.sweep()
        written = folder.recipe(recipe if isinstance(recipe, Recipe | dict | None) else load_recipe(recipe))
        facts = facts_of(folder)
        over = "finished" in facts and (folder.model / "config.json").is_file() and not grown(folder, facts, written)
        needed = folder.checkpoint.is_file() and not (over and folder.rows())
        within = written_by_run(folder.checkpoint) if needed else None
        lines = check_run(folder, facts, within)
        if over:
            return _finished(folder, written, facts, within, sets, main and progress, page if main else None)
        for line in lines if main else []:
            log.warning("%s", line)
        return _run(written, (folder, facts, within), sets, start, inside, progress, page, main)


def _run(
    written: Recipe,
    goes_on: tuple[RunFolder, dict[str, Any], dict[str, Any] | None] | None,
    sets: tuple[ImageSet, ImageSet] | None,
    start: PixelModel | None,
    inside: tuple[Mapping[str, ImageSet], Mapping[str, nn.Module]],
    progress: bool,
    page: Page | None,
    main: bool,
    fold: int | None = None,
) -> RunResult:
    """Train, from the beginning or where the run in a folder is, with its facts and what its checkpoint holds."""
    earlier, before, within = goes_on or (None, {}, None)
    in_memory, models = inside
    begins = earlier is None or not (before.get("data") or within is not None or ImageRecord.read(earlier.path))
    checkpoint = earlier.checkpoint if earlier is not None and within is not None else None
    fold = before.get("fold", fold)
    run_with = prepare(written, sets, start, earlier, begins, checkpoint is not None, fold, in_memory, models)
    recipe, train, val, model = run_with.recipe, run_with.train, run_with.val, run_with.model
    images, probe = train, run_with.probe
    record = record_of(recipe, train, val, start is not None) if main and begins else None
    data = {"train": len(train), "val": len(val), "image_shape": list(train.image_shape), "classes": train.class_names}
    if recipe.label_noise:  # after the bank is chosen: it holds the same images with noise and without
        train = with_label_noise(images, recipe.label_noise, recipe.seed)
        data["wrong_labels"] = int((train.labels != images.labels).sum())
    named = NamedModels(models, before.get("models", {}) if before.get("data") else None)
    objective = make_objective(recipe, train, models, named.load)
    extra = load_extra(recipe, train, val, in_memory)
    if record is not None:
        record = with_extra(record, extra)
    run = Run(recipe, model, objective, train, val, extra)  # what cannot be trained is said before a folder is made
    check_steps(recipe, -(-len(train) // (recipe.batch_size or len(train))))
    if recipe.shard:
        check_shardable(recipe, objective)
    if before.get("data") not in (None, data):
        raise ValueError(f"the data changed since the run began: {before.get('data')} then, {data} now")
    if before.get("data"):
        check_extra(before.get("extra", {}), about_extra(extra))
    facts = dict(before)
    if main and recipe.world > 1 and before.get("data") and "sync" not in before.get("given", {}):
        log.warning(
            "%s began when each device had batches and statistics of its own; from here on all train as one (sync), so "
            "it does not end with the weights that it would have had",
            earlier.path if earlier else "the run",
        )
    if not before.get("data"):
        facts |= first_facts(recipe, written, data, objective, probe, start is not None)
        facts |= {} if fold is None else {"fold": fold}
        facts |= {key: value for key, value in (("extra", about_extra(extra)), ("models", named.digests)) if value}
    elif grown(earlier, before, recipe):
        facts |= {"cost": costs(recipe, objective, len(train), (before.get("cost") or {}).get("earlier"))}
    # What a resumed run is made from, and what the trained weights can be averaged with.
    begun_with = model if recipe.init_from is not None or start is not None or probe is not None else None
    folder = earlier or (RunFolder.plan(recipe) if main else RunFolder(Path()))
    if main:
        check_room(recipe, model, folder.path, checkpoint is not None, ball(objective) is not None)
    if main and earlier is None:
        facts = folder.create(recipe, facts, record, begun_with)
    elif main:
        if record is not None:
            record.write(folder.path)
        if begun_with is not None and not folder.has_start:
            save(begun_with, folder.start)
        facts = go_on(folder, facts, recipe.epochs)
    if main:
        if progress:
            if (loading := train.report).skipped or loading.converted_grey or loading.converted_colour or loading.notes:
                print(f"{train.name} ({train.split}): {loading.summary()}")
            print(opening(recipe, folder, train, val, model, objective, facts), flush=True)
            if record is not None:
                in_hand = sets is not None or start is not None
                taught = named.remarks(train if recipe.folds else val, recipe.folds or 0)
                for remark in [*remarks(recipe, train, val, record, in_hand), *taught]:
                    print(remark, flush=True)
        folder.write_rows(rows_within(folder, within))
    with folder.claimed() if main else nullcontext():
        again = partial(_fit, extra=in_memory, models=models)
        pooled = cross_validate(recipe, images, folder.path, again, progress) if recipe.folds else None
        run.last_good = str(checkpoint) if checkpoint else None
        try:
            folder = train_epochs(run, folder, checkpoint, progress, main, facts.get("digests", {}))
            return _finish(run, folder, facts, main, page, pooled)
        except Exception as error:
            words = explained(error, recipe.batch_size or 1, recipe.world, folder.path)
            if words is None:
                raise
            raise words from error


def _finish(
    run: Run, folder: RunFolder, facts: dict[str, Any], main: bool, page: Page | None, pooled: Pooled | None
) -> RunResult:
    recipe = run.recipe
    last = run.evaluated
    as_stored(last)
    last.requires_grad_(True).eval()
    models, robust = kept_models(run, last, folder)
    below: dict[str, Any] | None = None
    if pooled is not None:
        if pooled.share < 1:
            models["model"] = on_the_way(start_of(last, folder), last, pooled.share, recipe, run.train_set)
    elif not run.attacking and recipe.average is None and "fold" not in facts and folder.has_start:
        models["model"], below = not_below_start(run, last, folder)
    measured: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        measured[name] = _judged(model, run, main, pooled)
    validation, model = measured["model"], models["model"]
    folds = None if pooled is None else pooled.record
    beside = {name: measured[name] for name in models if name != "model"}
    report: Path | None = None
    if main:
        if unread := left_out(run):
            facts = {**facts, "unreadable": unread}
            log.warning("%s", about_left_out(unread))
        for name in beside:
            save(models[name], folder.path / name)
        save(model, folder.model)
        facts = {**facts, "validation": validation, "reject": model.reject, "steps": model.steps}
        facts |= {f"validation_{name}": values for name, values in beside.items()}
        if robust is not None:
            facts["robust"] = robust
        if below is not None:
            facts["start"] = below
        if folds is not None:
            facts["folds"] = folds
        facts["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        folder.write_facts(facts)
        folder.clear_best()
        judged_by = run.val_set if pooled is None else pooled.first
        sweep_folds(folder.path)
        report = _page(page, model, folder, judged_by, recipe.seed, folds)
    rows = folder.rows() if main else []
    count = len(run.val_set) if pooled is None else len(pooled.images)
    return RunResult(folder.path, recipe, model, rows, validation, report, robust, beside, count, folds)


def _judged(model: PixelModel, run: Run, main: bool, pooled: Pooled | None) -> dict[str, float]:
    """What the model is worth on the validation images, or by the folds, with what is set by them."""
    recipe = run.recipe
    if pooled is not None:
        return judge(model.cpu(), recipe, pooled.images, pooled.logits, pooled.images.labels, main)
    rows, workers = max(64, recipe.batch_size or 0), recipe.workers or 0
    logits, labels = predict_logits(model.to(torch.device(recipe.device)), run.val_set, rows, workers)
    return judge(model.cpu(), recipe, run.val_set, logits, labels, main)


def _page(
    page: Page | None,
    model: PixelModel,
    folder: RunFolder,
    val: ImageSet,
    seed: int,
    folds: dict[str, Any] | None = None,
) -> Path | None:
    """Write the page of a run; None if it could not be made: that must not look like a run that failed.

    With `folds`, their record, it is of the model of the first one, and `val` are the images of that.
    """
    run, about = folder.path, None
    if page is None:
        return None
    try:
        if folds is not None:
            run, about = fold_folder(folder.path, 1), about_first(folder.path, folds)
            model = load(run / "model")
        page(model, run, val, folder.report, seed, ImageRecord.read(run), about)
    except Exception as error:
        log.warning("the report could not be made (%s: %s)", type(error).__name__, error)
        return None
    return folder.report if folder.report.is_file() else None


def _finished(
    folder: RunFolder,
    recipe: Recipe,
    facts: dict[str, Any],
    within: dict[str, Any] | None,
    sets: tuple[ImageSet, ImageSet] | None,
    tell: bool,
    page: Page | None,
) -> RunResult:
    """The result of a run that is over, after making what is missing beside its model."""
    model = load(folder.model)
    words = []
    if within is not None and not folder.rows():
        folder.write_rows(rows_within(folder, within))
        words.append("metrics.csv was missing, and was written again")
    folder.clear_best()  # what was broken off just before that
    sweep_folds(folder.path)
    if page is not None and not folder.report.is_file() and "adaptation" not in facts:  # which has none
        if tell:
            print(f"{folder.path} finished on {facts['finished']}, and its page is missing: it is made now", flush=True)
        try:
            if "folds" in facts:
                train, _ = resumed(folder.path, sets)
                val = train.subset(fold_places(train, facts["folds"]["folds"], held_by(vars(recipe)))[0])
                val.split = "val"
            else:
                val, _ = resumed(folder.path, sets)[1].readable()
        except (OSError, ValueError) as error:  # the run is over all the same
            log.warning("report.html is missing, and cannot be made without the images of the run: %s", error)
        else:
            if _page(page, model, folder, val, recipe.seed, facts.get("folds")) is not None:
                words.append("report.html was missing, and was made")
    if tell:
        print(f"{folder.path} finished on {facts['finished']}: {'; '.join(words) or 'nothing is left to do'}")
    report = folder.report if folder.report.is_file() else None
    validation, robust = facts.get("validation", {}), facts.get("robust")
    beside = {name: facts[key] for name in ("best", "last") if (key := f"validation_{name}") in facts}
    folds = facts.get("folds")
    count = facts["data"]["val"] if folds is None else folds["images"]
    return RunResult(folder.path, recipe, model, folder.rows(), validation, report, robust, beside, count, folds)
