"""`evaluate`: how far to trust classifiers, on clean, shifted, out-of-distribution and attacked images."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge import catalog
from kedge.data.corruptions.frost import texture_files
from kedge.data.overlap import shared_images
from kedge.evaluation.attack_suite import Attacks
from kedge.evaluation.cache import Parts
from kedge.evaluation.checks import check_images, check_request, limited, named_groups, named_sets, seen
from kedge.evaluation.comparing import compare, group_table
from kedge.evaluation.equalise import common_step, difference
from kedge.evaluation.evaluated_model import Subject, gather_subjects
from kedge.evaluation.figures import corruption_strips
from kedge.evaluation.inference_runner import Runner
from kedge.evaluation.inputs import conversion
from kedge.evaluation.model_summary import Settings, about
from kedge.evaluation.provenance import citations, conventions, machine, now, peak_memory, published_record, set_record
from kedge.evaluation.runner import Collected, collect
from kedge.evaluation.shifts import Shifts, class_masks, rendition_names, shifts
from kedge.metrics._base import metrics
from kedge.metrics._summary import FEWEST
from kedge.scores import Score

FORMAT_VERSION = 2
FIT_IMAGES = 5000  # training images at most, for the scores that learn
FIT_FEW = 1000  # as many at least, however few images of each set a limit asks for


def evaluate(
    models: Any,
    data: Any,
    *,
    shift: Any = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    frost_textures: str | os.PathLike[str] | None = None,
    ood: Any = None,
    near: Sequence[str] = (),
    equalise: bool = False,
    scores: Sequence[Score] | None = None,
    train: Any = None,
    attacks: Attacks | None = None,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    risk: float = 0.05,
    bins: int = 15,
    resamples: int = 1000,
    examples: int = 8,
    groups: Mapping[str, Sequence[str]] | None = None,
    parts: str | os.PathLike[str] | None = None,
    trained_on: Mapping[str, Callable[[Any], int | None]] | None = None,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure one or several classifiers on the same images, and return results that `json.dumps` takes.

    Models run on their own device in eval mode without gradients (attacks apart); their modes are left as they were.

    Args:
        models: a dict of name to model, or one model: a kedge model (asked through `predict`), or any callable from
            images `[B, C, H, W]` in [0, 1] to logits `[B, C]`.
        data: a `kedge.data.ImageSet` with the models' classes.
        shift: names of `kedge.data.corruptions`, its group words ("corruptions", "cbar", "noise", ...) and published
            sets (`kedge.data.published`); None for all nineteen corruptions, () for none.
        severities: of 1 to 5.
        frost_textures: a folder of pictures for the corruption "frost"; None for those made here.
        ood: out-of-distribution images: a set, a list of sets, or a dict of name to set. Brought to each model's input
            shape; the results say how.
        near: which of these are near, the others are then far: means are taken over each group.
        equalise: pass test images, where they are compared with out-of-distribution ones, and these through the same
            in-memory step, which hides differences of file format and size (see `common_step`).
        scores: what to tell them by; None for all of `kedge.scores.SCORES` that a model can give.
        train: training images, for the scores that learn from them; at most 5,000 are used, a seeded random subset;
            with a limit as many as that, but no less than 1,000, two for each feature and ten for each class.
        attacks: what to attack with, see `Attacks`; None for nothing.
        references: for anchored models: how many of the bank, "blt" or "adaptive"; None for the whole bank.
        batch_size, workers: images at a time, and processes that decode them.
        seed: of the subset, the corruptions, the attacks and the bootstrap.
        limit: at most so many images of each set, a seeded random subset; the results say so.
        risk: the share of wrong answers for which the coverage is looked up.
        bins: of the calibration error.
        resamples: of the bootstrap; 0 for none.
        examples: how many images to show of the most certain, the least certain and the confident mistakes.
        groups: name to names of models that are seeds of one method: compared as groups, with mean and spread.
        parts: a folder where each part is kept as soon as it is measured, and looked for before it is. Models that
            are not modules are measured anew each time.
        trained_on: for the names of models of which it is known, a function that counts the images of a set that the
            model was trained on (`ImageRecord.count` of its run), or says None where that cannot be told.
        command: the command line that led here, for the report.
        progress: called with (images done, images in all).
        notice: called with a sentence before work that takes long, and with what speaks against a model, which
            is among its `warnings` in the results too: that it seems to return probabilities, for instance.

    Raises:
        ValueError: before any work, when a model and the data do not fit (classes, outputs, logits that are not
            finite), for an unknown corruption or severity, an empty set, an out-of-distribution set that is the data
            itself. Logits that are not finite on other than clean images are a marked cell of the results.
    """
    started = time.perf_counter()
    check_request(data, batch_size, limit, severities, risk)
    found_shifts = shifts(shift, severities)
    _check_scores(scores)
    if frost_textures is not None:
        texture_files(Path(frost_textures))  # a wrong folder is an error before anything is measured
    if attacks is not None and not isinstance(attacks, Attacks):
        raise TypeError(f"attacks are kedge.evaluation.Attacks of named attacks, got {attacks!r}")
    sets, warned = named_sets(ood, near, data)
    say = notice or (lambda words: None)
    subjects = gather_subjects(models, data, references, batch_size, say)
    seeds = named_groups(groups, [s.name for s in subjects])
    masks = class_masks([*found_shifts.published, *found_shifts.renditions], data.class_names)
    scores = [catalog.build("scores", name) for name in catalog.ordered("scores")] if scores is None else list(scores)
    if attacks is not None:
        attacks.check(subjects)

    warnings = {name: _warning(data, images, equalise, warned[name]) for name, images in sets.items()}
    for name, words in warnings.items():
        if words:
            say(f"{name}: {words}")
    chosen, positions = limited(data, limit, seed)
    if len(chosen) < FEWEST:
        count = f"{len(chosen)} image{'s are' if len(chosen) > 1 else ' is'}"
        say(f"{count} too few for most intervals (it takes {FEWEST}): only shares of right answers have one")
    known = {s.name: seen(trained_on, s.name, chosen) for s in subjects}
    for name in filter(known.get, known):
        say(f"careful: {name} was trained on {known[name]} of these {len(chosen)} images, which flatter its numbers")
    outside = {name: limited(images, limit, seed)[0] for name, images in sets.items()}
    most = _fit_images(limit, subjects, len(data.class_names))
    training, no_training = _training(train, data, scores, bool(outside), seed, most)
    if training is not None and most < min(FIT_IMAGES, len(train)):
        whole = min(FIT_IMAGES, len(train))
        say(f"scores that learn are fitted on {most:,} training images, as limit is {limit:,}; else on {whole:,}")
    wants = {
        "features": bool(outside) and any("features" in score.needs for score in scores),
        "masked": bool(outside) and any("masked" in score.needs for score in scores),
    }
    step = common_step(data, list(sets.values())) if equalise and sets else None
    textures = None if frost_textures is None else str(frost_textures)
    place = Parts(None if parts is None else Path(parts))
    runner = Runner(subjects, place, wants, batch_size, workers, progress)
    collected = collect(
        runner, chosen, positions, training, found_shifts, masks, severities, outside, step, attacks, limit, seed,
        textures, say,
    )  # fmt: skip

    settings = Settings(bins, resamples, seed, risk, examples, step is not None)
    group_of: dict[str, str | None] = {name: _group(name, near) for name in sets}
    labels = None if training is None else training.labels
    summarised = {
        s.name: about(
            s, collected[s.name], chosen, positions, labels, no_training, scores, group_of, runner.pace[s.name],
            settings,
        )
        for s in subjects
    }  # fmt: skip
    measured = {name: own for name, (_, own) in summarised.items()}
    renditions = [c.renditions for c in collected.values()]
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "complete": not any(c.errors for c in collected.values()),
        "created": now(),
        "command": command,
        "machine": machine(),
        "settings": {
            "corruptions": found_shifts.names(),
            "shift_source": found_shifts.source,
            "severities": sorted({severity for _, severity in found_shifts.conditions}),
            "seed": seed,
            "limit": limit,
            "batch_size": batch_size,
            "bins": bins,
            "resamples": resamples,
            "scores": [s.name for s in scores],
            "fit_images": None if training is None else len(training),
            "references": len(references) if isinstance(references, Tensor) else references,
            "train": None if training is None else training.name,
            "frost_textures": None if frost_textures is None else Path(frost_textures).name,
            "attack_images": None if attacks is None else attacks.images,
            "attacks": [] if attacks is None else attacks.names(),
            "risk": risk,
            "equalise": None if step is None else step.words(tuple(data.image_shape)),
        },
        "conventions": conventions(),
        "citations": [
            *citations(_kinds(bool(sets), attacks)),
            *catalog.citations(_methods(found_shifts, scores if sets else [], attacks)),
            *catalog.citations(method for s in subjects for method in s.model.methods()),
        ],
        "fewest_images": FEWEST,
        "data": {**set_record(data, len(chosen), limit), "class_names": list(data.class_names)},
        "ood_sets": {
            name: {
                **set_record(full, len(outside[name]), limit),
                "conversion": {s.name: conversion(tuple(full.image_shape), s.shape) for s in subjects},
                "group": group_of[name],
                "warning": warnings[name],
            }
            for name, full in sets.items()
        },
        "shift_sets": {name: published_record(given, name, masks[given.name], renditions, len(data.class_names))
                       for given in found_shifts.renditions for name in rendition_names(given)},
        "models": {name: {**entry, "trained_on": known[name]} for name, (entry, _) in summarised.items()},
        "strips": _strips(chosen, positions, found_shifts, collected, seed, examples, textures),
        "groups": seeds,
        "comparisons": compare(measured, seeds) if len(measured) > 1 else [],
        "group_table": group_table(measured, seeds),
    }  # fmt: skip
    results["seconds"] = time.perf_counter() - started
    results["peak_memory_mb"] = peak_memory()
    results["parts_found"] = place.found
    return results


def _check_scores(scores: Sequence[Score] | None) -> None:
    if isinstance(scores, str) or any(not hasattr(score, "needs") for score in scores or ()):
        raise TypeError(f"scores are a list of scores such as [kedge.scores.MSP()], got {scores!r}")
    names = [score.name for score in scores or ()]
    if again := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two scores are called {again[0]!r}: give one of them another name (its .name)")


def _fit_images(limit: int | None, subjects: Sequence[Subject], classes: int) -> int:
    """How many training images the scores that learn get: with few, a covariance is of rounding alone."""
    if limit is None:
        return FIT_IMAGES
    widest = max((s.head[0].shape[1] for s in subjects if s.head is not None), default=0)
    return min(FIT_IMAGES, max(limit, FIT_FEW, 2 * widest, 10 * classes))


def _training(train: Any, data: Any, scores: Sequence[Score], wanted: bool, seed: int, most: int) -> tuple[Any, str]:
    """(training images for the scores that learn, or None; why there are none)."""
    if train is None:
        return None, "it learns from training images, and none were given"
    if not wanted or not any(score.fits for score in scores):
        return None, "nothing was asked of it"
    check_images(train)
    if list(train.class_names) != list(data.class_names):
        return None, f"it learns from training images, and {train.name} has other classes than {data.name}"
    shared = len(data) if train is data else shared_images(train, data)
    if shared > 0.01 * len(data):
        what = "the test images" if shared == len(data) else f"{shared} of the {len(data)} test images"
        raise ValueError(
            f"among the training images {train.name!r} are {what}: scores would be fitted on what they are tested on"
        )
    return limited(train, most, seed)[0], ""


def _group(name: str, near: Sequence[str]) -> str | None:
    return None if not near else "near" if name in near else "far"


def _warning(data: Any, outside: Any, equalised: bool, shared: str | None) -> str | None:
    said = [shared, None if equalised else difference(data, outside)]
    return "; ".join(words for words in said if words) or None


def _kinds(outside: bool, attacks: Attacks | None) -> list[str]:
    """What is cited beside the methods: conventions and checks."""
    return [*(["ood"] if outside else []), *([] if attacks is None else ["attack"])]


def _methods(found: Shifts, scores: Sequence[Score], attacks: Attacks | None) -> list[Any]:
    """The metrics, and the corruptions, scores and attacks that were measured."""
    measured = [metric for metric in metrics() if scores or metric.part != "ood"]
    corruptions = [catalog.get("data.corruptions", name) for name in found.corruptions]
    return [*measured, *corruptions, *scores, *([] if attacks is None else attacks.methods())]


def _strips(
    chosen: Any,
    positions: Tensor,
    found: Shifts,
    collected: Mapping[str, Collected],
    seed: int,
    examples: int,
    frost_textures: str | None,
) -> list[dict[str, Any]]:
    if not examples:
        return []
    severities = sorted({severity for _, severity in found.conditions})
    strips = corruption_strips(chosen, int(positions[0]), found.corruptions, severities, seed, frost_textures)
    return strips + [c.attacked.strip for c in collected.values() if c.attacked is not None and c.attacked.strip]
