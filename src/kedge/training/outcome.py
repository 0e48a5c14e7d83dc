"""From the last epoch to a model folder: which weights are kept, what they are worth, the record and the page."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.checkpoint import load, save
from kedge.clock import now
from kedge.data import ImageSet
from kedge.data.report import listed
from kedge.layout import as_stored
from kedge.training.calibration import judge, run_logits
from kedge.training.checkpoint_selection import models_to_save, not_below_start, on_the_way, start_of
from kedge.training.folder import RunFolder
from kedge.training.folds import Pooled, about_first, fold_folder, places_in, sweep_folds
from kedge.training.images import resumed, wrong_val_labels
from kedge.training.leaks import with_and_without
from kedge.training.module import Run
from kedge.training.recipe import Recipe
from kedge.training.record import ImageRecord
from kedge.training.unknown_choice import set_unknown
from kedge.training.validation import attacks

__all__ = ["Page", "RunResult", "finish", "finished"]

log = logging.getLogger("kedge")
Page = Callable[..., None]
_WRONG = (
    "A share of the labels on this page is wrong on purpose, as the recipe says (label_noise_val): it tells what the "
    "model is worth where labels are as wrong as in training. The command on this page judges by the labels as they "
    "are on the disk."
)


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
        robust: of a run that attacks: {eps, norm, steps, images, kept, best and last: {epoch, accuracy, pgd}}, on the
            validation images; None of any other.
        beside: accuracy, nll and ece of the models in best/ and last/, where there are such, as `validation`.
        images: how many validation images these numbers are of.
        leaks: which of those images have a near twin in training, and how often the model is right on them, as
            `kedge.training.leaks.leaks`; None where it was not looked for.
        folds: of a run that cross-validation judged: {folds, images, start, trained, share, accuracy, each}, start and
            trained only where it began with a trained model; `validation` is then of the images of all folds, each
            judged by a model of the other folds. None of any other.
    """

    folder: Path
    recipe: Recipe
    model: PixelModel
    history: list[dict[str, Any]]
    validation: dict[str, float]
    report: Path | None
    robust: dict[str, Any] | None = None
    beside: dict[str, dict[str, float]] = field(default_factory=dict)
    images: int = 0
    folds: dict[str, Any] | None = None
    leaks: dict[str, Any] | None = None

    @classmethod
    def of(
        cls,
        folder: RunFolder,
        recipe: Recipe,
        model: PixelModel,
        facts: dict[str, Any],
        rows: list[dict[str, Any]],
        report: Path | None,
    ) -> "RunResult":
        """What the `facts` of run.json say of a run that is over."""
        validation, robust, folds = facts.get("validation", {}), facts.get("robust"), facts.get("folds")
        beside = {name: facts[key] for name in ("best", "last") if (key := f"validation_{name}") in facts}
        count = facts["data"]["val"] if folds is None else folds["images"]
        leaking = facts.get("leaks")
        return cls(folder.path, recipe, model, rows, validation, report, robust, beside, count, folds, leaking)


def finish(
    run: Run,
    folder: RunFolder,
    facts: dict[str, Any],
    main: bool,
    page: Page | None,
    pooled: Pooled | None,
    judged_by_val: bool = True,
) -> RunResult:
    """Choose the weights of a run whose epochs are over, judge, save and record them, and write the page.

    All processes take part; `main` is the one that writes. `pooled`: what the folds say, where they judge.
    `judged_by_val`: whether the validation images may take the training back.
    """
    recipe = run.recipe
    last = run.evaluated
    as_stored(last)
    last.requires_grad_(True).eval()
    models, robust = models_to_save(run, last, folder)
    records: dict[str, Any] = {"robust": robust, "start": None, "folds": None if pooled is None else pooled.record}
    if pooled is not None:
        if pooled.share < 1:
            models["model"] = on_the_way(start_of(last, folder), last, pooled.share, recipe, run.train_set)
    elif judged_by_val and not attacks(run.objective) and recipe.average is None and _has_floor(folder, facts):
        models["model"], records["start"] = not_below_start(run, last, folder)
    judged = {name: _judged(model, run, main, pooled) for name, model in models.items()}
    measured = {name: values for name, (values, _) in judged.items()}
    model, validation = models.pop("model"), measured.pop("model")
    if "places" in (leaking := facts.get("leaks") or {}):
        records["leaks"] = {**leaking, "measured": with_and_without(leaking["places"], judged["model"][1])}
    facts = {**facts, "validation": validation, "reject": model.reject, "unknown": model.unknown}
    facts |= {"steps": model.steps, **{f"validation_{name}": values for name, values in measured.items()}}
    facts |= {key: record for key, record in records.items() if record is not None}
    report: Path | None = None
    if main:
        if unreadable := _unreadable(run):
            facts["unreadable"] = unreadable
            log.warning("%s", _about_unreadable(unreadable))
        for name, other in models.items():
            save(other, folder.path / name)
        save(model, folder.model)
        facts["finished"] = now()
        folder.write_facts(facts)
        folder.clear_best()
        sweep_folds(folder.path)
        judged_by = run.val_set if pooled is None else pooled.first
        report = _write_page(page, model, folder, judged_by, recipe, facts.get("folds"))
    return RunResult.of(folder, recipe, model, facts, folder.rows() if main else [], report)


def _has_floor(folder: RunFolder, facts: dict[str, Any]) -> bool:
    """Whether there is a start to hold the trained weights against; folds hold theirs against it together."""
    return "fold" not in facts and folder.has_start


def _judged(model: PixelModel, run: Run, main: bool, pooled: Pooled | None) -> tuple[dict[str, float], Tensor]:
    """(what the model is worth on the validation images, or by the folds, with what is set by them; which are right)"""
    recipe = run.recipe
    if pooled is not None:
        images, logits, labels = pooled.images, pooled.logits, pooled.images.labels
        measured = judge(model.cpu(), recipe, images, logits, labels, main)
        set_unknown(model, recipe, run.train_set, images, pooled=(logits, pooled.familiarity))
    else:
        logits, labels = run_logits(model, run.val_set, recipe)
        measured = judge(model.cpu(), recipe, run.val_set, logits, labels, main)
        set_unknown(model, recipe, run.train_set, run.val_set, run.negatives)
    return measured, logits.argmax(dim=1) == labels


def finished(
    folder: RunFolder,
    recipe: Recipe,
    facts: dict[str, Any],
    rows: list[dict[str, Any]],
    sets: tuple[ImageSet, ImageSet] | None,
    lines: bool,
    page: Page | None,
) -> RunResult:
    """The result of a run that is over, after making what is missing beside its model.

    `rows`: those of its checkpoint, where metrics.csv is missing; `lines`: print what was done.
    """
    model = load(folder.model)
    words = []
    if rows:
        folder.write_rows(rows)
        words.append("metrics.csv was missing, and was written again")
    folder.clear_best()  # what was broken off just before that
    sweep_folds(folder.path)
    if page is not None and not folder.report.is_file() and "adaptation" not in facts:  # which has none
        if lines:
            print(f"{folder.path} finished on {facts['finished']}, and its page is missing: it is made now", flush=True)
        try:
            train, val = resumed(folder.path, sets)
            if "folds" in facts:
                val = train.subset(places_in(recipe, train)[0])
                val.split = "val"
            else:
                val = wrong_val_labels(recipe, val.readable()[0])
        except (OSError, ValueError) as error:  # the run is over all the same
            log.warning("report.html is missing, and cannot be made without the images of the run: %s", error)
        else:
            if _write_page(page, model, folder, val, recipe, facts.get("folds")) is not None:
                words.append("report.html was missing, and was made")
    if lines:
        print(f"{folder.path} finished on {facts['finished']}: {'; '.join(words) or 'nothing is left to do'}")
    report = folder.report if folder.report.is_file() else None
    return RunResult.of(folder, recipe, model, facts, folder.rows(), report)


def _write_page(
    page: Page | None,
    model: PixelModel,
    folder: RunFolder,
    val: ImageSet,
    recipe: Recipe,
    folds: dict[str, Any] | None,
) -> Path | None:
    """Write the page of a run; None if it could not be made: that must not look like a run that failed.

    With `folds`, their record, it is of the model of the first one, and `val` are the images of that.
    """
    run, about = folder.path, (folder.path.resolve().name, _WRONG) if recipe.label_noise_val else None
    if page is None:
        return None
    try:
        if folds is not None:
            run, about = fold_folder(folder.path, 1), about_first(folder.path, folds)
            model = load(run / "model")
        page(model, run, val, folder.report, recipe.seed, ImageRecord.read(run), about)
    except Exception as error:
        log.warning("the report could not be made (%s: %s)", type(error).__name__, error)
        return None
    return folder.report if folder.report.is_file() else None


def _unreadable(run: Run) -> dict[str, Any]:
    """Which images of a run could not be read, for its record; empty if there were none.

    `skipped` when the data was loaded, and `replaced` by another of their class while it trained: lists of
    [path, reason]. `extra` has the same of further images, by the stream's name, where there were some.
    """
    record: dict[str, Any] = _of_sets((run.train_set, run.val_set), run.unreadable.training)
    further = {name: _of_sets((images,), run.unreadable.extra[name]) for name, images in run.extra.items()}
    if extra := {name: each for name, each in further.items() if any(each.values())}:
        record["extra"] = extra
    return record if any(record.values()) else {}


def _of_sets(sets: tuple[ImageSet, ...], replaced: dict[str, str]) -> dict[str, list[list[str]]]:
    skipped = {path: reason for images in sets for path, reason in images.report.skipped if path not in replaced}
    return {"skipped": [list(pair) for pair in skipped.items()], "replaced": [list(pair) for pair in replaced.items()]}


def _about_unreadable(record: dict[str, Any]) -> str:
    """What `_unreadable` recorded, in words that name the first images."""
    sets = [("", "another of their class in training", record)]
    sets += [(f" of {name}", "another in training", each) for name, each in record.get("extra", {}).items()]
    lines = []
    for which, another, each in sets:
        words = {"skipped": "left out", "replaced": f"replaced by {another}"}
        if counts := ", ".join(f"{len(each[key])} {what}" for key, what in words.items() if each[key]):
            lines.append(f"unreadable images{which}: {counts}\n{listed([*each['skipped'], *each['replaced']])}")
    return "\n".join(lines)
