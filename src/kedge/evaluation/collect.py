"""What every model gives on every set of images: the part of an evaluation that takes long."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from kedge.data import TensorSet
from kedge.data.corruptions import corrupt, corruption
from kedge.data.corruptions.frost import VERSION, texture_files
from kedge.data.fingerprints import key_of_file
from kedge.data.sets import size_of
from kedge.evaluation.attack_suite import Attacks, UnderAttack, run_attacks
from kedge.evaluation.cache import digest
from kedge.evaluation.equalise import equalise
from kedge.evaluation.evaluated_model import faults
from kedge.evaluation.runner import Columns, Outcome, Part, Runner, batches, identity
from kedge.evaluation.sets import Condition, Sets, limited, rendition_names
from kedge.evaluation.shift_notes import lacking, merged
from kedge.evaluation.stability import CHANGES, Change
from kedge.evaluation.streams import in_drawn_order

IN_MEMORY = 256 << 20  # bytes of decoded images that are held for all conditions; of more, files are decoded again


@dataclass
class Collected:
    """What was measured of one model, per image.

    Attributes:
        clean: its outputs on the test images.
        training: its outputs on training images, for the scores that learn; None without those.
        shift: (corruption, severity) -> what the metrics need.
        failed: the conditions whose logits were not finite.
        renditions: name of a published set -> what the metrics need.
        outside: name of an out-of-distribution set -> outputs.
        inside: outputs on the test images as they were equalised with those sets; None where they were not, or failed.
        attacked: what attacks did.
        changed: name of a change of `kedge.evaluation.stability` -> what the metrics need.
        errors: what could not be measured, and why.
    """

    clean: Outcome
    training: Outcome | None = None
    shift: dict[Condition, Columns] = field(default_factory=dict)
    failed: list[Condition] = field(default_factory=list)
    renditions: dict[str, Columns] = field(default_factory=dict)
    outside: dict[str, Outcome] = field(default_factory=dict)
    inside: Outcome | None = None
    attacked: UnderAttack | None = None
    changed: dict[str, Columns] = field(default_factory=dict)
    errors: list[dict[str, str]] = field(default_factory=list)


def collect(
    runner: Runner, sets: Sets, attacks: Attacks | None, limit: int | None, seed: int, stability: bool = False
) -> tuple[dict[str, Collected], dict[str, list[str]]]:
    """Run all models over everything; clean images first, which tells how long the rest will take.

    Returns what was measured of each model, and sentences on the images that each published set lacks.
    """
    data, positions = sets.test, sets.positions
    who = identity(data, positions)
    clean = Part("clean", data, who, positions, outputs=True, members=True)
    runner.announce(f"{len(data)} clean images", [clean])
    outcomes = runner.run(clean)
    runner.learn_pace(clean, outcomes)
    collected = {name: Collected(outcome) for name, outcome in outcomes.items()}
    for name, one in collected.items():
        if words := faults(one.clean.tensors["logits"]):
            raise ValueError(f"model {name!r} gave {words} on clean images")
    _outside(runner, sets, clean, collected)
    notes = _shifted(runner, sets, who, collected, limit, seed)
    if stability:
        _changed(runner, sets, who, collected, seed)
    if attacks is not None:
        for name, attacked in run_attacks(runner, attacks, data, positions, seed).items():
            collected[name].attacked = attacked
            collected[name].errors += attacked.errors
    return collected, notes


def _outside(runner: Runner, sets: Sets, clean: Part, collected: Mapping[str, Collected]) -> None:
    """Training images for the scores that learn, out-of-distribution sets, and the test images as those are changed."""
    away = {name: _whole(f"ood {name}", images) for name, images in sets.ood.items()}
    within = None
    if (step := sets.step) is not None:
        shape = tuple(sets.test.image_shape)

        def change(batch: Tensor, where: Tensor) -> Tensor:
            return equalise(batch, shape, step)

        settings = ["equalise", shape, step.size, step.quality]
        within = replace(clean, name="clean, equalised", change=change, settings=settings)
        away = {name: replace(part, change=change, settings=settings) for name, part in away.items()}
    # No score learns from masked passes.
    learn = None if sets.training is None else replace(_whole("training images", sets.training), masked=False)
    parts = [part for part in (learn, *away.values(), within) if part is not None]
    runner.announce("out-of-distribution sets", parts)
    if learn is not None:
        for name, outcome in runner.run(learn).items():
            collected[name].training = outcome
    for set_name, part in away.items():
        for name, outcome in _sound(part, runner, collected):
            collected[name].outside[set_name] = outcome
    if within is not None:
        for name, outcome in _sound(within, runner, collected):
            collected[name].inside = outcome


def _shifted(
    runner: Runner, sets: Sets, who: str, collected: Mapping[str, Collected], limit: int | None, seed: int
) -> dict[str, list[str]]:
    """Corruptions made here, and published sets; returns sentences on the images that each of those lacks."""
    data = sets.test
    corrupted = list(_corrupted(sets, who, seed))
    runner.announce(f"{len(corrupted)} kinds of corrupted images", [part for _, part in corrupted])
    source = data
    if any(runner.missing(part) for _, part in corrupted):
        source = in_memory(data, len(corrupted), runner.workers, runner.batch_size)
    # Where decoded images are not held, all severities of a corruption share one pass over the files.
    for _, same in groupby(corrupted, key=lambda each: each[0][0] if source is data else each[0]):
        group = list(same)
        together = runner.run_together([replace(part, images=source) for _, part in group])
        for (condition, part), outcomes in zip(group, together, strict=True):
            _note(collected, condition, part, outcomes)
    notes = {}
    for images in (*sets.shifts.published, *sets.shifts.renditions):
        conditions = {}
        for key, part, conditions[part.name] in _published(images, sets, limit, seed):
            runner.announce(part.name, [part])
            _note(collected, key, part, runner.run(part))
        notes[images.name] = merged(conditions)
        for words in notes[images.name]:
            runner.say(f"{images.name}: {words}")
    return notes


def _changed(runner: Runner, sets: Sets, who: str, collected: Mapping[str, Collected], seed: int) -> None:
    """The changes that nobody sees, and those that destroy the object."""
    parts = [
        Part(f"stability {one.name}", sets.test, who, sets.positions, partial(_make, one, seed),
             ["stability", one.name, seed])
        for one in CHANGES
    ]  # fmt: skip
    runner.announce("changes nobody sees, and destroyed images", parts)
    for one, outcomes in zip(CHANGES, runner.run_together(parts), strict=True):
        for name, outcome in outcomes.items():
            bad = int((outcome.tensors["bad"] > 0).sum())
            if bad:
                words = f"logits that are not finite for {bad} of {len(outcome.tensors['bad'])} images"
                collected[name].errors.append({"part": f"stability {one.name}", "message": words})
            else:
                collected[name].changed[one.name] = outcome.tensors


def _make(change: Change, seed: int, images: Tensor, where: Tensor) -> Tensor:
    return change.make(images, where, seed)


def _corrupted(sets: Sets, who: str, seed: int) -> Iterator[tuple[Condition, Part]]:
    """The parts of the corruptions made here; `who` is the identity of the images."""
    folder = sets.shifts.frost_textures
    textures = VERSION if folder is None else [[p.name, key_of_file(str(p)).hex()] for p in texture_files(folder)]
    for name, severity in sets.shifts.conditions if sets.shifts.corruptions else ():

        def change(images: Tensor, where: Tensor, name: str = name, severity: int = severity) -> Tensor:
            return corrupt(images, name, severity, indices=where, seed=seed, frost_textures=folder)

        settings = ["corrupt", name, severity, seed, textures if corruption(name).textured else None]
        yield (name, severity), Part(f"{name} {severity}", sets.test, who, sets.positions, change, settings)


def _published(
    images: Any, sets: Sets, limit: int | None, seed: int
) -> Iterator[tuple[Condition | str, Part, dict[str, str]]]:
    """The parts of a published set, each read from disk when its turn comes, in the shape of the test images.

    Beside each is why some of its images are not there or not read.
    """
    shape = sets.test.image_shape
    decode = {} if limit is None else {"decode": False}
    for place, condition in enumerate(images.conditions):
        corruption_name, severity = condition
        if severity is not None and severity not in sets.shifts.severities:
            continue
        whole = images.load(condition, image_size=size_of(shape), channels=shape[0], **decode)
        some, positions = limited(whole, limit, seed)
        if sets.mixed:
            some, positions = in_drawn_order(some, positions, seed)
        rendition = severity is None
        name = rendition_names(images)[place] if rendition else f"{corruption_name} {severity}"
        who = digest(images.name, condition, identity(some, positions))
        part = Part(name, some, who, positions, classes=sets.masks[images.name])
        yield name if rendition else condition, part, lacking(whole)


def _sound(part: Part, runner: Runner, collected: Mapping[str, Collected]) -> Iterator[tuple[str, Outcome]]:
    """(model, what it gave) of the models whose logits are finite; an error is noted of the others."""
    for name, outcome in runner.run(part).items():
        if words := faults(outcome.tensors["logits"]):
            collected[name].errors.append({"part": part.name, "message": words})
        else:
            yield name, outcome


def _note(
    collected: Mapping[str, Collected], key: Condition | str, part: Part, outcomes: Mapping[str, Outcome]
) -> None:
    """Note what models gave under a condition, or on the set of renditions called `key`."""
    for name, outcome in outcomes.items():
        one, bad = collected[name], outcome.tensors["bad"]
        if bool(bad.any()):
            words = f"logits that are not finite for {int(bad.sum())} of {len(bad)} images"
            one.errors.append({"part": part.name, "message": words})
            if not isinstance(key, str):
                one.failed.append(key)
        elif isinstance(key, str):
            one.renditions[key] = outcome.tensors
        else:
            one.shift[key] = outcome.tensors


def _whole(name: str, images: Any) -> Part:
    positions = torch.arange(len(images))
    return Part(name, images, identity(images, positions), positions, outputs=True)


def in_memory(images: Any, conditions: int, workers: int, batch_size: int) -> Any:
    """The set, decoded into memory where it is read from files for several conditions and fits."""
    if conditions < 2 or isinstance(images, TensorSet) or len(images) * math.prod(images.image_shape) > IN_MEMORY:
        return images
    decoded = torch.empty((len(images), *images.image_shape), dtype=torch.uint8)
    start = 0
    for batch, _ in batches(images, batch_size, workers):
        decoded[start : start + len(batch)] = batch
        start += len(batch)
    copy = TensorSet(decoded, images.labels, images.class_names, images.name, images.split, images.report, images.paths)
    copy.mirror, copy.origin = images.mirror, images.origin
    return copy
