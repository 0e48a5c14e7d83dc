"""`evaluate`: how far to trust classifiers, on clean, shifted and out-of-distribution images."""

import difflib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.examples import example_images
from kedge.evaluation.inputs import conversion
from kedge.evaluation.outside import outside_summary
from kedge.evaluation.passes import Condition, Pass, Stopwatch, run_labelled, run_unlabelled
from kedge.evaluation.provenance import machine, now
from kedge.evaluation.subjects import Subject, gather_subjects
from kedge.evaluation.summaries import clean_summary, draw, selective_summary, shift_summary
from kedge.scores import MSP, Disagreement, Energy, Score

FORMAT_VERSION = 1
CONVENTIONS = {
    "accuracy": "share of correct answers; interval: Wilson. Means over corruptions: bootstrap over images",
    "ece": "expected calibration error of the top prediction, equal-width bins, pooled over the set; basic bootstrap",
    "brier": "sum over classes of squared differences, 0 to 2",
    "ood": "in-distribution is the positive class; a higher score means more in-distribution; interval: DeLong",
    "fpr95": "share of out-of-distribution images accepted when 95 % of in-distribution ones are",
    "corruptions": "generated on the batch, deterministic in (image index, name, severity, seed); "
    "not the published corrupted files",
}


def evaluate(
    models: Any,
    data: Any,
    *,
    corruptions: Sequence[str] | None = None,
    severities: Sequence[int] = (1, 2, 3, 4, 5),
    ood: Any = None,
    scores: Sequence[Score] | None = None,
    references: Any = None,
    batch_size: int = 256,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    bins: int = 15,
    resamples: int = 1000,
    examples: int = 8,
    command: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Measure one or several classifiers on the same images, and return results that `json.dumps` takes.

    Models run on their own device in eval mode without gradients; their modes are left as they were.

    Args:
        models: a dict of name to model, or one model: a kedge model (asked through `predict`), or any callable from
            images `[B, C, H, W]` in [0, 1] to logits `[B, C]`.
        data: a `kedge.data.ImageSet` with the models' classes.
        corruptions: names of `kedge.data.corruptions`; None for all of them, () for none.
        severities: of 1 to 5.
        ood: out-of-distribution images: a set, a list of sets, or a dict of name to set. Brought to each model's input
            shape; the results say how.
        scores: what to tell them by; None for confidence, energy and, where a model has it, reference disagreement.
        references: for anchored models: how many of the bank, or "blt"; None for the whole bank.
        batch_size, workers: images at a time, and processes that decode them.
        seed: of the subset, the corruptions and the bootstrap.
        limit: at most so many images of each set, a seeded random subset; the results say so.
        bins: of the calibration error.
        resamples: of the bootstrap; 0 for none.
        examples: how many images to show of the most certain, the least certain and the confident mistakes.
        command: the command line that led here, for the report.
        progress: called with (steps done, steps in all).

    Raises:
        ValueError: when a model and the data do not fit (classes, outputs, logits that are not finite), for an unknown
            corruption or severity, an empty set, an out-of-distribution set that is the data itself.
    """
    started = time.perf_counter()
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    subjects = gather_subjects(models, data, references)
    conditions, corrupt = _conditions(corruptions, severities)
    chosen, indices = _limited(data, limit, seed)
    _check_labels(chosen)
    outside = {name: _limited(images, limit, seed)[0] for name, images in _named_sets(ood, data).items()}
    scores = [MSP(), Energy(), Disagreement()] if scores is None else list(scores)

    steps = math.ceil(len(chosen) / batch_size) * len(conditions)
    steps += sum(math.ceil(len(images) / batch_size) for images in outside.values())
    tick = _ticker(steps * len(subjects), progress)
    passes, watches = run_labelled(
        subjects, chosen, indices, conditions, corrupt, scores,
        batch_size=batch_size, workers=workers, seed=seed, tick=tick,
    )  # fmt: skip
    away = {
        name: run_unlabelled(subjects, images, scores, batch_size=batch_size, workers=workers, tick=tick)
        for name, images in outside.items()
    }
    results: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        "created": now(),
        "command": command,
        "machine": machine(),
        "settings": {
            "corruptions": list(dict.fromkeys(c[0] for c in conditions if c is not None)),
            "severities": sorted({c[1] for c in conditions if c is not None}),
            "seed": seed,
            "limit": limit,
            "batch_size": batch_size,
            "bins": bins,
            "resamples": resamples,
            "scores": [s.name for s in scores],
        },
        "conventions": CONVENTIONS,
        "data": {**_set_record(data, len(chosen)), "class_names": list(data.class_names)},
        "ood_sets": {
            name: {
                **_set_record(full, len(outside[name])),
                "conversion": {s.name: conversion(tuple(full.image_shape), s.shape) for s in subjects},
            }
            for name, full in _named_sets(ood, data).items()
        },
        "models": {
            s.name: {
                **s.description(tuple(data.image_shape)),
                **_summary(
                    s, passes[s.name], watches[s.name], {n: found[s.name] for n, found in away.items()},
                    chosen, indices, scores, bins, resamples, seed, examples,
                ),
            }
            for s in subjects
        },
    }  # fmt: skip
    results["seconds"] = time.perf_counter() - started
    return results


def _summary(
    subject: Subject,
    passes: dict[Condition, Pass],
    watch: Stopwatch,
    away: dict[str, Pass],
    data: Any,
    indices: Tensor,
    scores: list[Score],
    bins: int,
    resamples: int,
    seed: int,
    examples: int,
) -> dict[str, Any]:
    """Everything about one model."""
    columns = {condition: kept.columns() for condition, kept in passes.items()}
    for condition, found in columns.items():
        _check_finite(subject.name, condition, found)
    outside = {name: kept.columns() for name, kept in away.items()}
    for name, found in outside.items():
        _check_finite(subject.name, name, found)
    values, draws = draw(columns, bins, resamples, seed)
    clean = columns[None]
    shifted = {condition: found for condition, found in columns.items() if condition is not None}
    reject = getattr(subject.model, "reject", None)
    selective = selective_summary(reject, clean, list(shifted.values()))
    histograms, ood = outside_summary(clean, outside, scores, selective["threshold"] if selective else None)
    first = None if draws is None else draws[:, 0]
    rest = None if draws is None else draws[:, 1:]
    return {
        "clean": clean_summary(clean, values[0], first, len(data.class_names), bins),
        "shift": shift_summary(shifted, values[1:], rest, bins),
        "scores": histograms,
        "ood": ood,
        "selective": selective,
        "images": example_images(clean, data, indices, examples),
        "timing": {"images_per_second": watch.rate(), "device": str(subject.device)},
    }


def _conditions(corruptions: Sequence[str] | None, severities: Sequence[int]) -> tuple[list[Condition], Any]:
    """Clean first, then every corruption at every severity."""
    if isinstance(corruptions, str):
        corruptions = [corruptions]
    if corruptions is not None and not corruptions:
        return [None], None
    from kedge.data.corruptions import NAMES, corrupt

    for severity in severities:
        if severity not in (1, 2, 3, 4, 5):
            raise ValueError(f"severities are 1 to 5, got {severity}")
    names = list(dict.fromkeys(NAMES if corruptions is None else corruptions))
    for name in names:
        if name not in NAMES:
            near = difflib.get_close_matches(name, NAMES, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"there is no corruption {name!r}; {hint}there are {', '.join(NAMES)}")
    return [None, *((name, int(s)) for name in names for s in sorted(set(severities)))], corrupt


def _named_sets(ood: Any, data: Any) -> dict[str, Any]:
    """Name to set; a set's own name where none was given."""
    if ood is None:
        return {}
    if isinstance(ood, Mapping):
        sets = {str(name): images for name, images in ood.items()}
    else:
        sets = {}
        for images in ood if isinstance(ood, (list, tuple)) else [ood]:
            name = images.name if images.name != data.name else f"{images.name} (other classes)"
            if name in sets:
                raise ValueError(f"two out-of-distribution sets are called {name!r}: pass a dict of name to set")
            sets[name] = images
    for name, images in sets.items():
        if images is data:
            raise ValueError(f"the out-of-distribution set {name!r} is the test set itself")
    return sets


def _limited(data: Any, limit: int | None, seed: int) -> tuple[Any, Tensor]:
    """The set, or a seeded random subset of `limit` images in the set's order, with their positions `[N]`."""
    total = len(data)
    if total == 0:
        raise ValueError(f"the set {data.name!r} is empty: there is nothing to evaluate")
    if limit is not None and limit < 1:
        raise ValueError(f"limit must be 1 or more, got {limit}")
    if limit is None or limit >= total:
        return data, torch.arange(total)
    indices = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
    return data.subset(indices), indices


def _check_labels(data: Any) -> None:
    low, high, classes = int(data.labels.min()), int(data.labels.max()), len(data.class_names)
    if low < 0 or high >= classes:
        raise ValueError(
            f"the set {data.name!r} has {classes} classes, but its labels go from {low} to {high}; "
            "evaluation needs a label for every image"
        )


def _check_finite(name: str, where: Any, columns: dict[str, Tensor]) -> None:
    bad = ~torch.stack([c.isfinite() for c in columns.values()]).all(dim=0)
    if bool(bad.any()):
        place = (
            "clean images" if where is None else " ".join(str(w) for w in where) if isinstance(where, tuple) else where
        )
        raise ValueError(
            f"model {name!r} gave logits that are not finite for {int(bad.sum())} of {len(bad)} images ({place}): "
            "its weights may hold NaN, or it overflows in half precision"
        )


def _set_record(data: Any, used: int) -> dict[str, Any]:
    report = getattr(data, "report", None)
    return {
        "name": data.name,
        "split": getattr(data, "split", None),
        "images": used,
        "of": len(data),
        "limited": used < len(data),
        "image_shape": list(data.image_shape),
        "unreadable": len(getattr(report, "skipped", ())),
    }


def _ticker(total: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    done = 0

    def tick() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    return tick
