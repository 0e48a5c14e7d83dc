"""fit(): run a recipe from its beginning, or from its last checkpoint, to a model in a folder."""

import logging
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.strategies import DDPStrategy

import kedge
from kedge import metrics, own_code
from kedge.anchoring import PixelModel
from kedge.data import ImageSet, with_label_noise
from kedge.data.sets import check_set
from kedge.layout import as_stored, channels_last
from kedge.training.banner import opening
from kedge.training.build import load_sets, make_objective
from kedge.training.callbacks import AtomicCheckpoints, Bar, EpochRows, LastCheckpoint, Snapshots
from kedge.training.checkpoint_selection import kept_models
from kedge.training.errors import explained
from kedge.training.facts import costs, first_facts
from kedge.training.floor import not_below_start
from kedge.training.folder import RunFolder
from kedge.training.held_out import record_of, resumed
from kedge.training.init_model import begin, started
from kedge.training.module import Run, ball
from kedge.training.probe import from_probe
from kedge.training.quiet import quiet
from kedge.training.recipe import Recipe, load_recipe
from kedge.training.record import ImageRecord
from kedge.training.remarks import remarks
from kedge.training.resolve import resolve_device, resolve_network
from kedge.training.result import RunResult
from kedge.training.resuming import check_run, facts_of, go_on, grown, rows_within, written_by_run
from kedge.training.sharding import Sharded, check_shardable, put_together
from kedge.training.space import check_room
from kedge.training.start_from import inherit
from kedge.training.takers import takers
from kedge.training.temperature import calibrate
from kedge.training.threshold import about_left_out, left_out, predict_logits, reject_rule, write_run_report

__all__ = ["RunResult", "fit"]

log = logging.getLogger("kedge")
PRECISIONS: dict[str, Any] = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def fit(
    recipe: "Recipe | str | Path | dict[str, Any] | None" = None,
    *,
    resume: str | Path | None = None,
    sets: tuple[ImageSet, ImageSet] | None = None,
    start: PixelModel | None = None,
    progress: bool = True,
    report: bool = True,
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
        progress: print a line per epoch, and show a bar on a terminal.
        report: write report.html in the end, which takes some seconds.
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
    main = getattr(rank_zero_only, "rank", 0) == 0  # false in the other processes of torchrun or Lightning
    for images, what in zip(sets or (), ("training images", "validation images"), strict=False):
        check_set(images, what)
    if start is not None and not isinstance(start, PixelModel):
        raise TypeError(f"start is a model of kedge, got {type(start).__name__}; init_from in the recipe names one")
    if allow_code is None:
        written = resume is None and isinstance(recipe, Recipe | dict)
        allow_code = written or own_code.is_allowed()
    with torch.random.fork_rng(), quiet(), own_code.allow_code(allow_code):
        if resume is None:
            given = load_recipe(recipe if recipe is not None else Recipe())
            chosen = inherit(given) if start is None else started(given, start, sets)
            if main and chosen.name is not None:
                RunFolder.plan(chosen)  # a name that is taken is an error before the data is read
            return _run(chosen, None, sets, start, progress, report, main, given)
        folder = RunFolder.open(resume)
        if main:
            folder.sweep()
        chosen = folder.recipe(recipe if isinstance(recipe, Recipe | dict | None) else load_recipe(recipe))
        facts = facts_of(folder)
        over = "finished" in facts and (folder.model / "config.json").is_file() and not grown(folder, facts, chosen)
        needed = folder.checkpoint.is_file() and not (over and folder.rows())
        within = written_by_run(folder.checkpoint) if needed else None
        lines = check_run(folder, facts, within)
        if over:
            return _finished(folder, chosen, facts, within, sets, main and progress, main and report)
        for line in lines if main else []:
            log.warning("%s", line)
        return _run(chosen, (folder, facts, within), sets, start, progress, report, main)


def _run(
    chosen: Recipe,
    goes_on: tuple[RunFolder, dict[str, Any], dict[str, Any] | None] | None,
    sets: tuple[ImageSet, ImageSet] | None,
    start: PixelModel | None,
    progress: bool,
    report: bool,
    main: bool,
    given: Recipe | None = None,
) -> RunResult:
    """Train, from the beginning or where the run in a folder is, with its facts and what its checkpoint holds."""
    earlier, before, within = goes_on or (None, {}, None)
    takers(chosen)  # a value that no objective takes is an error before the data is read
    recipe = resolve_device(chosen)
    begins = earlier is None or not (before.get("data") or within is not None or ImageRecord.read(earlier.path))
    train, val = sets or load_sets(recipe) if begins or earlier is None else resumed(earlier.path, sets)
    val, _ = val.readable()  # a training image is replaced when it is met, one of these would be missed
    checkpoint = earlier.checkpoint if earlier is not None and within is not None else None
    model, recipe = begin(recipe, train, earlier, checkpoint is not None, start)
    recipe = resolve_network(recipe, model.network, len(train), train.image_shape)
    probe: dict[str, Any] | None = None
    stored = earlier is not None and (earlier.start / "config.json").is_file()
    if recipe.head == "probe" and checkpoint is None and not stored:
        recipe, probe = from_probe(recipe, model, train, val)
    record = record_of(recipe, train, val, start is not None) if main and begins else None
    data = {"train": len(train), "val": len(val), "image_shape": list(train.image_shape), "classes": train.class_names}
    if recipe.label_noise:  # after the bank is chosen: it holds the same images with noise and without
        clean, train = train, with_label_noise(train, recipe.label_noise, recipe.seed)
        data["wrong_labels"] = int((train.labels != clean.labels).sum())
    objective = make_objective(recipe, train)
    if recipe.shard:
        check_shardable(recipe, objective)
    if before.get("data") not in (None, data):
        raise ValueError(f"the data changed since the run began: {before.get('data')} then, {data} now")
    facts = dict(before)
    if main and recipe.world > 1 and before.get("data") and "sync" not in before.get("given", {}):
        log.warning(
            "%s began when each device had batches and statistics of its own; from here on all train as one (sync), so "
            "it does not end with the weights that it would have had",
            earlier.path if earlier else "the run",
        )
    if not before.get("data"):
        facts |= first_facts(recipe, given or chosen, data, objective, probe, start is not None)
    elif grown(earlier, before, recipe):
        facts |= {"cost": costs(recipe, objective, data, (before.get("cost") or {}).get("earlier"))}
    # What a resumed run is made from, and what the trained weights can be averaged with.
    begun_with = model if recipe.init_from is not None or start is not None or probe is not None else None
    folder = earlier or (RunFolder.plan(recipe) if main else RunFolder(Path()))
    if main:
        check_room(recipe, model, folder, checkpoint is not None, ball(objective) is not None)
    if main and earlier is None:
        facts = folder.create(recipe, facts, record, begun_with)
    elif main:
        if record is not None:
            record.write(folder.path)
        if begun_with is not None and not stored:
            kedge.save(begun_with, folder.start)
        facts = go_on(folder, facts, recipe.epochs)
    if main:
        if progress:
            if (said := train.report).skipped or said.converted_grey or said.converted_colour or said.notes:
                print(f"{train.name} ({train.split}): {said.summary()}")
            print(opening(recipe, folder, train, val, model, objective, facts), flush=True)
            if record is not None:
                for remark in remarks(recipe, train, val, record):
                    print(remark, flush=True)
        folder.write_rows(rows_within(folder, within))
    run = Run(recipe, model, objective, train, val)
    run.last_good = str(checkpoint) if checkpoint else None
    try:
        folder = _train(run, folder, checkpoint, progress, main, facts.get("digests", {}))
        return _finish(run, folder, facts, main, report)
    except Exception as error:
        words = explained(error, recipe.batch_size or 1, recipe.world, folder.path)
        if words is None:
            raise
        raise words from error


def _train(
    run: Run, folder: RunFolder, checkpoint: Path | None, progress: bool, main: bool, digests: dict[str, Any]
) -> RunFolder:
    recipe = run.recipe
    assert recipe.batch_size is not None
    if recipe.device != "mps" and not recipe.shard:  # faster on GPUs with bf16 and on CPUs
        channels_last(run, always=True)
    rows = EpochRows(folder, main, progress)
    callbacks: list[Callback] = [rows, LastCheckpoint(folder, digests)]
    if recipe.snapshots:
        callbacks.append(Snapshots(folder, recipe.snapshots))
    bar = progress and sys.stdout.isatty()
    if bar:
        callbacks.append(Bar(leave=False, console_kwargs={"file": getattr(sys.stdout, "raw", sys.stdout)}))
    trainer = Trainer(
        accelerator="gpu" if recipe.device == "cuda" else recipe.device,
        devices=recipe.devices,
        num_nodes=recipe.nodes,
        strategy=_strategy(recipe),
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
        if run.whole is not None:
            run.model = put_together(run.model, run.whole[0])
        return rows.folder
    except SystemExit as error:  # what Lightning makes of Ctrl-C
        if not trainer.interrupted:
            raise
        where = f"after epoch {trainer.current_epoch}" if run.last_good else "before the first epoch was over"
        signal.signal(signal.SIGINT, signal.default_int_handler)  # Lightning leaves it ignored
        raise KeyboardInterrupt(f"interrupted {where}; go on with --resume {folder.path}") from error


def _strategy(recipe: Recipe) -> Any:
    """How several devices train together."""
    if recipe.shard:
        return Sharded(recipe.world)
    # Buffers are the same in all processes, or each process's own until validation.
    return DDPStrategy(broadcast_buffers=False) if recipe.world > 1 else "auto"


def _finish(run: Run, folder: RunFolder, facts: dict[str, Any], main: bool, wanted: bool) -> RunResult:
    recipe = run.recipe
    last = run.evaluated
    as_stored(last)
    last.requires_grad_(True).eval()
    models, robust = kept_models(run, last, folder)
    below: dict[str, Any] | None = None
    if not run.attacking and recipe.average is None and (folder.start / "config.json").is_file():
        models["model"], below = not_below_start(run, last, folder)
    found: dict[str, dict[str, float]] = {}
    for name, model in models.items():
        found[name] = _judged(model, run, main)
    validation, model = found["model"], models["model"]
    beside = {name: found[name] for name in models if name != "model"}
    report: Path | None = None
    if main:
        if unread := left_out(run):
            facts = {**facts, "unreadable": unread}
            log.warning("%s", about_left_out(unread))
        for name in beside:
            kedge.save(models[name], folder.path / name)
        kedge.save(model, folder.model)
        facts = {**facts, "validation": validation, "reject": model.reject, "steps": model.steps}
        facts |= {f"validation_{name}": values for name, values in beside.items()}
        if robust is not None:
            facts["robust"] = robust
        if below is not None:
            facts["start"] = below
        facts["finished"] = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        folder.write_facts(facts)
        folder.clear_best()
        report = _page(model, folder, run.val_set, recipe.seed) if wanted else None
    rows = folder.rows() if main else []
    return RunResult(folder.path, recipe, model, rows, validation, report, robust, beside, len(run.val_set))


def _judged(model: PixelModel, run: Run, main: bool) -> dict[str, float]:
    """Set the reject threshold, and the temperature if one is wanted, on the validation images; judge it on them."""
    recipe = run.recipe
    assert recipe.batch_size is not None
    rows, workers = max(64, recipe.batch_size), recipe.workers or 0
    logits, labels = predict_logits(model.to(torch.device(recipe.device)), run.val_set, rows, workers)
    model.cpu()
    model.reject = reject_rule(logits, labels, recipe.coverage, recipe.risk)
    if recipe.temperature:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            logits = logits / calibrate(model, run.val_set, measured=(logits, labels))["value"]
        for warning in said if main else []:
            log.warning("%s", warning.message)
    probs = logits.softmax(1)
    return {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
        "ece": float(metrics.calibration_error(probs, labels)),
    }


def _page(model: PixelModel, folder: RunFolder, val: ImageSet, seed: int) -> Path | None:
    """Write the page of a run; None if it could not be made: that must not look like a run that failed."""
    try:
        write_run_report(model, folder.path, val, folder.report, seed, ImageRecord.read(folder.path))
    except Exception as error:
        log.warning("the report could not be made (%s: %s)", type(error).__name__, error)
        return None
    return folder.report


def _finished(
    folder: RunFolder,
    recipe: Recipe,
    facts: dict[str, Any],
    within: dict[str, Any] | None,
    sets: tuple[ImageSet, ImageSet] | None,
    tell: bool,
    wanted: bool,
) -> RunResult:
    """The result of a run that is over, after making what is missing beside its model."""
    model = kedge.load(folder.model)
    words = []
    if within is not None and not folder.rows():
        folder.write_rows(rows_within(folder, within))
        words.append("metrics.csv was missing, and was written again")
    folder.clear_best()  # what was broken off just before that
    if wanted and not folder.report.is_file() and "adaptation" not in facts:  # which has none
        if tell:
            print(f"{folder.path} finished on {facts['finished']}, and its page is missing: it is made now", flush=True)
        try:
            val, _ = resumed(folder.path, sets)[1].readable()
        except (OSError, ValueError) as error:  # the run is over all the same
            log.warning("report.html is missing, and cannot be made without the images of the run: %s", error)
        else:
            if _page(model, folder, val, recipe.seed) is not None:
                words.append("report.html was missing, and was made")
    if tell:
        print(f"{folder.path} finished on {facts['finished']}: {'; '.join(words) or 'nothing is left to do'}")
    report = folder.report if folder.report.is_file() else None
    validation, robust = facts.get("validation", {}), facts.get("robust")
    beside = {name: facts[key] for name in ("best", "last") if (key := f"validation_{name}") in facts}
    return RunResult(
        folder.path, recipe, model, folder.rows(), validation, report, robust, beside, facts["data"]["val"]
    )
