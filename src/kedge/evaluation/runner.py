"""What every model gives on every set of images: the part of an evaluation that takes long."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.attack_runner import run_attacks
from kedge.evaluation.attack_suite import Attacks, UnderAttack
from kedge.evaluation.equalise import Step, equalise
from kedge.evaluation.evaluated_model import faults
from kedge.evaluation.inference_runner import Columns, Kept, Part, Runner, duration, held, identity
from kedge.evaluation.shifts import Condition, Shifts, generated, published


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
        errors: what could not be measured, and why.
    """

    clean: Kept
    training: Kept | None = None
    shift: dict[Condition, Columns] = field(default_factory=dict)
    failed: list[Condition] = field(default_factory=list)
    renditions: dict[str, Columns] = field(default_factory=dict)
    outside: dict[str, Kept] = field(default_factory=dict)
    inside: Kept | None = None
    attacked: UnderAttack | None = None
    errors: list[dict[str, str]] = field(default_factory=list)


def collect(
    runner: Runner,
    data: Any,
    positions: Tensor,
    training: Any,
    shifts: Shifts,
    masks: Mapping[str, Tensor | None],
    severities: Sequence[int],
    outside: Mapping[str, Any],
    step: Step | None,
    attacks: Attacks | None,
    limit: int | None,
    seed: int,
    frost_textures: str | None,
    say: Callable[[str], None],
) -> dict[str, Collected]:
    """Run all models over everything; clean images first, which tells how long the rest will take."""
    who = identity(data, positions)
    clean = Part("clean", data, who, positions, outputs=True)
    _announce(say, f"{len(data)} clean images", runner.expect([clean]))
    gave = runner.run(clean)
    runner.learn_pace(clean, gave)
    collected = {name: Collected(outcome) for name, outcome in gave.items()}
    for name, one in collected.items():
        if words := faults(one.clean.tensors["logits"]):
            raise ValueError(f"model {name!r} gave {words} on clean images")

    away = {name: _whole(f"ood {name}", images) for name, images in outside.items()}
    within = None
    if step is not None:
        shape_ = tuple(data.image_shape)

        def change(batch: Tensor, where: Tensor) -> Tensor:
            return equalise(batch, shape_, step)

        settings = ["equalise", shape_, step.size, step.quality]
        within = Part("clean, equalised", data, who, positions, change, settings, outputs=True)
        away = {name: replace(part, change=change, settings=settings) for name, part in away.items()}
    # No score learns from masked passes.
    learn = None if training is None else replace(_whole("training images", training), masked=False)
    before = [part for part in (learn, *away.values(), within) if part is not None]
    _announce(say, "out-of-distribution sets", runner.expect(before))
    if learn is not None:
        for name, outcome in runner.run(learn).items():
            collected[name].training = outcome
    for set_name, part in away.items():
        for name, outcome in _sound(part, runner, collected):
            collected[name].outside[set_name] = outcome
    if within is not None:
        for name, outcome in _sound(within, runner, collected):
            collected[name].inside = outcome

    shifted = list(generated(shifts, data, who, positions, seed, frost_textures))
    _announce(say, f"{len(shifted)} kinds of corrupted images", runner.expect([part for _, part in shifted]))
    source = data
    if any(runner.missing(part) for _, part in shifted):
        source = held(data, len(shifted), runner.workers, runner.batch_size)
    # Where decoded images are not held, all severities of a corruption share one pass over the files.
    for _, same in groupby(shifted, key=lambda each: each[0][0] if source is data else each[0]):
        group = list(same)
        together = runner.run_together([part.of(source) for _, part in group])
        for (condition, part), outcomes in zip(group, together, strict=True):
            _keep(collected, condition, part, outcomes)
    shape = tuple(data.image_shape)  # read like the test images, whatever the models take
    for sets in (shifts.published, shifts.renditions):
        for condition_, part in published(sets, masks, severities, shape, limit, seed):
            _announce(say, part.name, runner.expect([part]))
            _keep(collected, condition_ if condition_[1] is not None else part.name, part, runner.run(part))
    if attacks is not None:
        for name, attacked in run_attacks(runner, attacks, data, positions, seed, say).items():
            collected[name].attacked = attacked
            collected[name].errors += attacked.errors
    return collected


def _sound(part: Part, runner: Runner, collected: Mapping[str, Collected]) -> Iterator[tuple[str, Kept]]:
    """(model, what it gave) of the models whose logits are finite; an error is noted of the others."""
    for name, outcome in runner.run(part).items():
        if words := faults(outcome.tensors["logits"]):
            collected[name].errors.append({"part": part.name, "message": words})
        else:
            yield name, outcome


def _keep(collected: Mapping[str, Collected], condition: Any, part: Part, gave: Mapping[str, Kept]) -> None:
    for name, outcome in gave.items():
        one = collected[name]
        bad = int(outcome.tensors["bad"].sum())
        if bad:
            words = f"logits that are not finite for {bad} of {len(outcome.tensors['bad'])} images"
            one.errors.append({"part": part.name, "message": words})
            if isinstance(condition, tuple):
                one.failed.append(condition)
        elif isinstance(condition, tuple):
            one.shift[condition] = outcome.tensors
        else:
            one.renditions[condition] = outcome.tensors


def _whole(name: str, images: Any) -> Part:
    positions = torch.arange(len(images))
    return Part(name, images, identity(images, positions), positions, outputs=True)


def _announce(say: Callable[[str], None], what: str, seconds: float) -> None:
    if seconds >= 600:
        say(
            f"{what}: about {duration(seconds)} (fewer: limit, severities, references; interrupting keeps what is done)"
        )
    elif seconds >= 20:
        say(f"{what}: about {duration(seconds)}")
