"""Evaluate the runs of an experiment, each once: what was measured in the same way is not measured again."""

import functools
import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge import data
from kedge.data import DataError, ImageSet
from kedge.data.decode import Size
from kedge.data.sets import size_of
from kedge.experiments.experiment import Experiment
from kedge.experiments.measures import RISK, measured
from kedge.experiments.running import Planned, first_here, plan
from kedge.files import sweep, write_text
from kedge.json_text import read_json
from kedge.training.folder import RunFolder
from kedge.training.record import ImageRecord

__all__ = ["all_measured", "check_judging", "earlier_record", "evaluate_one", "read_record", "read_results"]

Say = Callable[[str], None]
NOT_KEYWORDS = ("near", "ood", "part", "views", "curve")  # of an experiment's evaluation; the rest `evaluate` takes


def evaluate_one(
    planned: Planned,
    resamples: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    say: Say | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run as its variant says, and keep the record; one that was kept is given as it is.

    Out-of-distribution sets that are not here are left out, and the record says which.

    Raises:
        ValueError: if the run is not trained yet.
    """
    if not planned.trained:
        raise ValueError(f"{planned.run} has no model yet")
    record = read_record(planned)
    if record is not None:
        return record
    trained, images = RunFolder(planned.run).facts(), ImageRecord.read(planned.run)
    if "finished" not in trained:
        raise ValueError(
            f"{planned.run} has a model but is not over: another process is at it, or the same command goes on"
        )
    import torch

    from kedge import evaluation
    from kedge.clock import now
    from kedge.evaluation.provenance import machine
    from kedge.scores import MSP, Energy, Masked

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    asked = planned.variant.evaluation
    # Every run meets the same images and the same corruptions.
    keywords: dict[str, Any] = {
        "batch_size": batch_size,
        "resamples": resamples,
        "examples": 0,
        "seed": 0,
        "risk": RISK,
    }
    keywords |= {key: value for key, value in asked.items() if key not in NOT_KEYWORDS}
    whole = keywords.get("limit") is None
    model = _loaded(planned.run / "model", device)
    size, channels = size_of(model.input_shape), model.input_shape[0]
    test = _judging(planned, size, channels, whole)
    if planned.recipe.class_order is not None:
        test = test.only_classes(planned.recipe.class_order)
    near, missing = _ood_sets(asked.get("near", []), size, channels, whole)
    far, more = _ood_sets(asked.get("ood", []), size, channels, whole)
    if not hasattr(model := _viewed(model, asked.get("views")), "references"):
        keywords.pop("references", None)
    started = time.perf_counter()
    results = evaluation.evaluate(
        {planned.name: model},
        test,
        ood={**near, **far} or None,
        near=list(near),
        scores=[MSP(), Energy(), Masked()],
        notice=say,
        trained_on={} if images is None else {planned.name: images.count},
        **keywords,
    )
    entry = results["models"][planned.name]
    copies = RunFolder(planned.run).snapshots() if asked.get("curve") else {}
    along = {str(epoch): _viewed(_loaded(folder, device), asked.get("views")) for epoch, folder in copies.items()}
    curve = evaluation.evaluate(along, test, **keywords)["models"] if along else {}
    record = {
        "asked": _settings(planned),
        "finished": trained["finished"],
        "created": now(),
        "machine": machine(),
        "network": entry["network"],
        "parameters": entry["parameters"],
        "trained": {key: trained.get(key) for key in ("cost", "validation", "start", "folds", "torch", "platform")},
        "training_seconds": sum(row["seconds"] for row in RunFolder(planned.run).rows()),
        "evaluation_seconds": time.perf_counter() - started,
        "images": results["data"]["images"],
        "judged_on": test.fingerprint(),
        "trained_on": entry["trained_on"],
        "missing": [*missing, *more],
        "errors": entry["errors"],
        **measured(entry),
        **({"curve": {epoch: measured(each)["measures"] for epoch, each in curve.items()}} if curve else {}),
    }
    sweep(planned.record.parent)
    write_text(planned.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def _loaded(folder: Path, device: str) -> Any:
    import kedge
    from kedge.layout import channels_last

    return channels_last(kedge.load(folder).to(device))


def _viewed(model: Any, views: int | None) -> Any:
    """The model, or its mean over several views of an image."""
    from kedge.evaluation.inputs import Views

    return model if views is None else Views(model, views)


def read_record(planned: Planned) -> dict[str, Any] | None:
    """What was measured of a run; None if nothing was, or of another training, in another way, or on fewer sets."""
    folder = RunFolder(planned.run)
    try:
        record = read_json(planned.record, nan=True)
        trained = folder.facts()
        grown = folder.recipe(planned.recipe).epochs != folder.recipe().epochs  # an error for another recipe
    except (OSError, ValueError):
        return None
    if grown or planned.start_is_newer():
        return None
    if not isinstance(record.get("measures"), dict) or not isinstance(record.get("missing"), list):
        return None
    same = record.get("asked") == _settings(planned) and record.get("finished") == trained.get("finished")
    if not same or any(_is_here(name) for name in record["missing"]):
        return None
    return record


def read_results(path: Path, experiment: Experiment) -> dict[str, Any]:
    """The results of an experiment as `gathered` made them, from a results.json.

    Raises:
        ValueError: for a file that is none, or of another experiment.
        FileNotFoundError: there is none.
    """
    results = read_json(path, nan=True)
    of = results.get("experiment") if isinstance(results, dict) else None
    if of is None or not isinstance(results.get("variants"), dict):
        raise ValueError(f"{path} is no results.json of kedge reproduce")
    if of != experiment.name:
        raise ValueError(f"{path} has results of {of}, not of {experiment.name}")
    return results


def earlier_record(planned: Planned, results: Mapping[str, Any]) -> dict[str, Any] | None:
    """What earlier results say of this run; None if nothing, or of another recipe, evaluation or data."""
    entry = results["variants"].get(planned.variant.name)
    if entry is None or results["data"] != planned.recipe.data:
        return None
    if entry["recipe"] != planned.variant.recipe or entry["evaluation"] != planned.variant.evaluation:
        return None
    if entry.get("start") != planned.variant.start:  # the same changes of another training
        return None
    runs = {run["seed"]: run for run in entry["runs"]}
    return {key: value for key, value in runs.get(planned.seed, {}).items() if key != "seed"} or None


@functools.cache
def _is_here(name: str) -> bool:
    """Asked once in a process: without a network the hub's client takes a minute to say no."""
    try:
        first_here([name])
    except DataError:
        return False
    return True


def _settings(planned: Planned) -> dict[str, Any]:
    # How images are ranked is part of it: records of another ranking do not stand beside those of this one.
    return {**planned.variant.evaluation, "data": planned.recipe.data, "ranked_by": "log odds"}


def check_judging(planned: Iterable[Planned]) -> None:
    """Raise DataError or ValueError, before anything is trained, where the images to judge on are not in the data."""
    for each in {(p.variant.evaluation.get("part", "test"), p.recipe.train_images): p for p in planned}.values():
        part, place = each.variant.evaluation.get("part", "test"), str(each.recipe.data)
        if part == "rest":
            _rest(each, data.load(place, "train", decode=False))
        elif part not in (offered := data.splits(place)):
            there = ", ".join(offered)
            raise DataError(
                f"{each.name} is judged on images of a part {part}, and {place} has {there}: put them in a folder "
                f"{part} beside train"
            )


def _judging(planned: Planned, size: Size, channels: int, decode: bool) -> ImageSet:
    """The images that a run is judged on: a part of its data, or with part rest those that train_images left."""
    place = str(planned.recipe.data)
    if (part := planned.variant.evaluation.get("part", "test")) != "rest":
        return data.load(place, part, size, channels, decode=decode)
    return _rest(planned, data.load(place, "train", size, channels, decode=decode))


def _rest(planned: Planned, train: ImageSet) -> ImageSet:
    first, place = planned.recipe.train_images, planned.recipe.data
    if first is None or first >= len(train):
        raise ValueError(f"part rest is of training images beyond train_images ({first}), and {place} has {len(train)}")
    return train.subset(range(first, len(train)))


def _ood_sets(
    entries: Iterable[str | list[str]], size: Size, channels: int, decode: bool
) -> tuple[dict[str, ImageSet], list[str]]:
    """Out-of-distribution sets by name, and the names of those that are not here."""
    sets, missing = {}, []
    for names in entries:
        names = [names] if isinstance(names, str) else names
        name = next(filter(_is_here, names), None)
        if name is None:
            missing.append(names[0])
            continue
        offered = data.splits(name)
        split = "test" if "test" in offered else offered[-1]
        sets[names[0]] = data.load(name, split, size, channels, decode=decode)
    return sets, missing


def all_measured(
    experiment: Experiment,
    scale: str,
    planned: Sequence[Planned],
    out: Path,
    changes: Mapping[str, Any] | None = None,
    known: Mapping[str, Any] | None = None,
) -> tuple[list[Planned], dict[str, dict[str, Any]]]:
    """What is planned, and everything else of the experiment at this scale that was measured before, with its records.

    Measured in `out`, or else according to earlier results (`known`, see `read_results`).
    """
    by_name = {each.name: each for each in planned}
    names = [path.stem.rpartition("-") for path in (out / "measured").glob("*-*.json")]
    seeds = {each.seed for each in planned} | {int(seed) for _, _, seed in names if seed.isdigit()}
    seeds |= {run["seed"] for entry in known["variants"].values() for run in entry["runs"]} if known else set()
    place = str(planned[0].recipe.data)
    # A scale may leave variants out that were asked for all the same.
    every = plan(experiment, scale, sorted(seeds), out, place, list(experiment.variants), changes)
    every = [by_name.get(each.name, each) for each in every]
    records = {each.name: read_record(each) or (earlier_record(each, known) if known else None) for each in every}
    measured = {name: record for name, record in records.items() if record is not None}
    return [each for each in every if each.name in by_name or each.name in measured], measured
