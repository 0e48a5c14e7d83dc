"""`evaluate`: how far to trust classifiers, on clean, shifted, out-of-distribution and attacked images."""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge import catalog
from kedge.anchoring.prototypes import reads_features
from kedge.clock import now
from kedge.data.groups import Groups
from kedge.data.label_spaces import about_numbers
from kedge.evaluation.attack_suite import Attacks
from kedge.evaluation.cache import Parts
from kedge.evaluation.collect import collect
from kedge.evaluation.comparing import compare, group_table
from kedge.evaluation.each_image import file_names, images_record, repeated
from kedge.evaluation.equalise import common_step, difference
from kedge.evaluation.evaluated_model import gather_subjects, named_groups
from kedge.evaluation.figures import corruption_strips, shared_out
from kedge.evaluation.first_order import first_order_radius
from kedge.evaluation.inputs import conversion
from kedge.evaluation.model_summary import Settings, about
from kedge.evaluation.provenance import citations, conventions, machine, peak_memory
from kedge.evaluation.runner import Runner
from kedge.evaluation.sets import (
    FIT_IMAGES,
    Sets,
    check_request,
    check_seen,
    check_tpr,
    fit_images,
    labelled_few,
    limited,
    named_sets,
    rendition_names,
    set_record,
    shifts,
    trained_images,
    training_images,
)
from kedge.evaluation.shift_notes import about_set, published_record
from kedge.evaluation.stability import check_size, rates
from kedge.evaluation.streams import brake_in_words, check_adapting, in_drawn_order, record
from kedge.metrics._base import metrics
from kedge.metrics._summary import FEWEST
from kedge.metrics.accuracy_by_group import check_groups
from kedge.scores import Score, usual
from kedge.scores.reverse_anchoring import ANCHORS

FORMAT_VERSION = 2
FIELDS_ON_DEMAND = ("features", "masked", "reverse")  # of what a model gives: collected where a score needs them


def evaluate(
    models: Any,
    data: Any,
    *,
    shift: Any = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    frost_textures: str | os.PathLike[str] | None = None,
    ood: Any = None,
    near: Sequence[str] | None = None,
    equalise: bool = False,
    seen: Sequence[str] = (),
    scores: Sequence[Score] | None = None,
    train: Any = None,
    attacks: Attacks | None = None,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    risk: float = 0.05,
    tpr: float | None = None,
    stability: bool = False,
    bins: int = 15,
    resamples: int = 1000,
    examples: int = 24,
    groups: Mapping[str, Sequence[str]] | None = None,
    groups_of: Groups | Sequence[str | None] | None = None,
    parts: str | os.PathLike[str] | None = None,
    trained_on: Mapping[str, Callable[[Any], int | None]] | None = None,
    train_counts: Mapping[str, Sequence[int]] | None = None,
    about_training: Mapping[str, dict[str, Any]] | None = None,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
    notice: Callable[[str], None] | None = None,
) -> dict[str, Any]:
    """Measure one or several classifiers on the same images, and return results that `json.dumps` takes.

    Models run on their own device in eval mode without gradients (attacks apart); their modes are left as they were.
    Where one adapts to the images it meets (`kedge.test_time`), all sets come in an order drawn by the seed, it is
    reset before each, nothing of it is stored, and neither attacks nor out-of-distribution sets are asked of it.

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
        near: which of these are near, () for none; the others are then far, and means are taken over each group. None:
            nobody says.
        equalise: pass test images, where they are compared with out-of-distribution ones, and these through the same
            in-memory step, which hides differences of file format and size (see `common_step`).
        seen: which of these are of classes that the backbone saw in pre-training, though the model does not know them.
            With any, how well a linear classifier on the model's features tells each set from the test images is
            measured too: where it cannot, no score of a model on these features will.
        scores: what to tell them by; None for all (`kedge.scores.usual`) that a model can give.
        train: training images, for the scores that learn from them; at most 5,000 are used, a seeded random subset;
            with a limit as many as that, but no less than 1,000, two for each feature and ten for each class.
        attacks: what to attack with, see `Attacks`; None for nothing.
        references: for anchored models: how many of the bank, "blt" or "adaptive"; None for the whole bank.
        batch_size, workers: images at a time, and processes that decode them.
        seed: of the subset, the corruptions, the attacks and the bootstrap.
        limit: at most so many images of each set, a seeded random subset; the results say so.
        risk: the share of wrong answers for which the coverage is looked up.
        tpr: the share of familiar images that must pass, between 0 and 1: out-of-distribution sets are also measured
            at the threshold that this asks for, beside the one for 95 %. None: at that one alone.
        stability: also measure how many answers flip under changes nobody sees, and how many are kept with confidence
            after the object is destroyed (`kedge.evaluation.stability`): six passes over the test images.
        bins: of the calibration error.
        resamples: of the bootstrap; 0 for none.
        examples: how many images to show of the least certain and the confident mistakes, of several models fewer of
            each, but no less than 8; and whether to show any of the most certain (up to 8) and of what is behind the
            cells of the confusion matrix (up to 160, of all models together).
        groups: name to names of models that are seeds of one method: compared as groups, with mean and spread.
        groups_of: of the images of `data`: which group each belongs to (`kedge.data.group_by`, or a text for each
            image, None for no group); None: no groups.
        parts: a folder where each part is stored as soon as it is measured, and looked for before it is. Models that
            are not modules are measured anew each time.
        trained_on: for the names of models of which it is known, a function that counts the images of a set that the
            model was trained on (`ImageRecord.count` of its run), or says None where that cannot be told.
        train_counts: for the names of models of which it is known, how many training images each class had, `[C]`: the
            accuracy of rare classes goes by them.
        about_training: for the names of models of which it is known, how they were trained, as
            `kedge.training.about_run` says it.
        command: the command line that led here, for the report.
        progress: called with (images done, images in all).
        notice: called with a sentence before work that takes long, and with what speaks against a model, which
            is among its `warnings` in the results too: that it seems to return probabilities, for instance.

    Raises:
        ValueError: before any work, when a model and the data do not fit (classes, outputs, logits that are not
            finite), for an unknown corruption or severity, an empty set, an out-of-distribution set that is the data
            itself, groups of which no two have ten images. Logits that are not finite on other than clean images are a
            marked cell of the results.
    """
    started = time.perf_counter()
    check_request(data, batch_size, limit, severities, risk)
    check_tpr(tpr, bool(ood))
    if stability:
        check_size(data.image_shape)
    shifted = shifts(shift, severities, None if frost_textures is None else str(frost_textures))
    _check_scores(scores)
    if attacks is not None and not isinstance(attacks, Attacks):
        raise TypeError(f"attacks are kedge.evaluation.Attacks of named attacks, got {attacks!r}")
    ood_sets, shared = named_sets(ood, near or (), data)
    check_seen(seen, ood_sets)
    say = notice or (lambda words: None)
    subjects = gather_subjects(models, data, references, batch_size, say)
    seeds = named_groups(groups, [s.name for s in subjects])
    _check_counts(train_counts or {}, [s.name for s in subjects], len(data.class_names))
    masks = shifted.masks(data.class_names)
    for images in (*shifted.published, *shifted.renditions):
        for note in about_numbers(data.class_names, getattr(images, "space", ())):
            say(f"{images.name}: {note}")
    scores = usual() if scores is None else list(scores)
    if attacks is not None:
        attacks.check(subjects)
    mixed = check_adapting(subjects, ood_sets, attacks)

    warnings = {}
    for name, images in ood_sets.items():
        words = [shared[name], None if equalise else difference(data, images)]
        warnings[name] = "; ".join(filter(None, words)) or None
        if warnings[name]:
            say(f"{name}: {warnings[name]}")
    test, positions = limited(data, limit, seed)
    if mixed:
        test, positions = in_drawn_order(test, positions, seed)
    if len(test) < FEWEST:
        count = f"{len(test)} image{'s are' if len(test) > 1 else ' is'}"
        say(f"{count} too few for most intervals (it takes {FEWEST}): only shares of right answers have one")
    divided = None if groups_of is None else _divided(groups_of, data, positions)
    trained = {s.name: trained_images(trained_on, s.name, test) for s in subjects}
    for name in filter(trained.get, trained):
        say(f"careful: {name} was trained on {trained[name]} of these {len(test)} images, which flatter its numbers")
    outside = {name: limited(images, limit, seed)[0] for name, images in ood_sets.items()}
    most = fit_images(limit, subjects, len(data.class_names))
    training, why_no_training = training_images(train, data, scores, bool(outside), seed, most)
    if training is not None and most < min(FIT_IMAGES, len(train)):
        whole = min(FIT_IMAGES, len(train))
        say(f"scores that learn are fitted on {most:,} training images, as limit is {limit:,}; else on {whole:,}")
    step = common_step(data, list(ood_sets.values())) if equalise and ood_sets else None
    sets = Sets(test, positions, training, why_no_training, shifted, masks, outside, step, mixed)

    wants = {field: any(field in score.needs for score in scores if outside) for field in FIELDS_ON_DEMAND}
    rules = [subject.model.unknown for subject in subjects]
    wants["features"] |= bool(seen) or any(rule is not None and reads_features(rule) for rule in rules)
    if wants["reverse"] and training is not None:
        anchors = labelled_few(training, ANCHORS, seed)
        subjects = [subject.with_anchors(*anchors) for subject in subjects]
    stored = Parts(None if parts is None else Path(parts))
    runner = Runner(subjects, stored, wants, batch_size, workers, progress, say)
    collected, lacking = collect(runner, sets, attacks, limit, seed, stability)
    published = (*shifted.published, *shifted.renditions)
    notes = {s.name: [*about_set(s, data.class_names), *lacking[s.name]] for s in published}

    files = file_names(getattr(data, "paths", None), positions)
    each, behind = shared_out(examples, len(subjects))
    settings = Settings(bins, resamples, seed, risk, each, train_counts or {}, tpr, bool(seen), divided, behind, files)
    group_of = {name: None if near is None else "near" if name in near else "far" for name in ood_sets}
    summaries = {
        s.name: about(s, collected[s.name], sets, scores, group_of, runner.pace[s.name], settings) for s in subjects
    }
    measured = {name: own for name, (_, own) in summaries.items()}
    renditions = [c.renditions for c in collected.values()]
    strips = corruption_strips(test, int(positions[0]), shifted, seed) if examples else []
    strips += [c.attacked.strip for c in collected.values() if examples and c.attacked and c.attacked.strip]
    return {
        "format_version": FORMAT_VERSION,
        "complete": not any(c.errors for c in collected.values()),
        "created": now(),
        "command": command,
        "machine": machine(),
        "settings": {
            "corruptions": shifted.names(),
            "shift_source": shifted.source,
            "severities": shifted.severities,
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
            "attacks": [] if attacks is None else list(attacks.named),
            "risk": risk,
            "tpr": tpr,
            "groups_of": None if divided is None else divided.by,
            "equalise": None if step is None else step.words(tuple(data.image_shape)),
        },
        "conventions": conventions(),
        "citations": [
            *citations([*(["ood"] if ood_sets else []), *([] if attacks is None else ["attack"])]),
            *catalog.citations(_methods(shifted.corruptions, scores if ood_sets else [], attacks, summaries)),
            *citations(["seen"] if seen else []),
            *catalog.citations([*([rates] if stability else []), *([] if attacks is None else [first_order_radius])]),
            *catalog.citations(method for s in subjects for method in s.model.methods()),
        ],
        "fewest_images": FEWEST,
        "data": {
            **set_record(data, len(test), limit),
            "class_names": list(data.class_names),
            "repeated": repeated(test.keys()),
        },
        "test_images": images_record(test.labels, positions, files),
        "ood_sets": {
            name: {
                **set_record(images, len(outside[name]), limit),
                "conversion": {s.name: conversion(tuple(images.image_shape), s.shape) for s in subjects},
                "group": group_of[name],
                "seen": name in seen if seen else None,
                "warning": warnings[name],
            }
            for name, images in ood_sets.items()
        },
        "shift_sets": {
            name: published_record(name, masks[s.name], renditions, len(data.class_names), notes[s.name])
            for s in shifted.renditions
            for name in rendition_names(s)
        },
        "shift_notes": {s.name: notes[s.name] for s in shifted.published},
        "models": {
            s.name: {
                **summaries[s.name][0],
                "trained_on": trained[s.name],
                "training": (about_training or {}).get(s.name),
                "gate": {},  # of its recipe, which only a caller knows
                "test_time": record(s, runner.streams[s.name], seed),
                "warnings": [*s.warnings, *brake_in_words(runner.streams[s.name])],
            }
            for s in subjects
        },
        "strips": strips,
        "groups": seeds,
        "comparisons": compare(measured, seeds) if len(measured) > 1 else [],
        "group_table": group_table(measured, seeds),
        "seconds": time.perf_counter() - started,
        "peak_memory_mb": peak_memory(),
        "parts_found": stored.reused,
    }


def _check_counts(counts: Mapping[str, Sequence[int]], names: Sequence[str], classes: int) -> None:
    for name, own in counts.items():
        if name not in names:
            raise ValueError(f"train_counts names {name!r}, but the models are {', '.join(names)}")
        if len(own) != classes or any(isinstance(n, bool) or not isinstance(n, int) or n < 0 for n in own):
            raise ValueError(f"train_counts of {name!r} are numbers of images, one for each of {classes} classes")


def _divided(groups_of: Groups | Sequence[str | None], data: Any, positions: Tensor) -> Groups:
    """The groups of the images at `positions`. Raises ValueError for other than one for each image, and for few."""
    groups = groups_of if isinstance(groups_of, Groups) else Groups.of(groups_of)
    if len(groups) != len(data):
        raise ValueError(f"groups_of names the groups of {len(groups)} images, but {data.name} has {len(data)}")
    check_groups(groups.at(positions))
    return groups.at(positions)


def _check_scores(scores: Sequence[Score] | None) -> None:
    if isinstance(scores, str) or any(not hasattr(score, "needs") for score in scores or ()):
        raise TypeError(f"scores are a list of scores such as [kedge.scores.MSP()], got {scores!r}")
    names = [score.name for score in scores or ()]
    if again := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"two scores are called {again[0]!r}: give one of them another name (its .name)")


def _methods(
    corruptions: Sequence[str], scores: Sequence[Score], attacks: Attacks | None, summaries: Mapping[str, Any]
) -> list[Any]:
    """The metrics, corruptions, scores and attacks that were measured."""
    clean = [entry["clean"] for entry, _ in summaries.values()]
    measured = [metric for metric in metrics() if scores or metric.part != "ood"]
    measured = [m for m in measured if m.part != "clean" or any(own.get(m.key) is not None for own in clean)]
    images = [catalog.get("data.corruptions", name) for name in corruptions]
    return [*measured, *images, *scores, *([] if attacks is None else attacks.methods())]
