"""All attacks on all models: what is run, what is kept, and what stands in the results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.twin import evaluating
from kedge.attacks import as_attack
from kedge.evaluation.attack_suite import Attacks, UnderAttack
from kedge.evaluation.attacked import (
    Attack,
    at_places,
    attack_batch,
    broken_at,
    predictor,
)
from kedge.evaluation.checks import limited
from kedge.evaluation.chunks import CHUNK, Work, as_batch, chunks, columns_of, first_chunk
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.figures import attack_strip
from kedge.evaluation.inference_runner import Columns, Runner, duration
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sanity import panel, same_answers

SHOWN = 4


def run_attacks(
    runner: Runner,
    attacks: Attacks,
    data: Any,
    positions: Tensor,
    seed: int,
    say: Callable[[str], None],
) -> dict[str, UnderAttack]:
    """Attack every model, chunk by chunk, kept as they are done: what that did to each, by name."""
    results = {subject.name: UnderAttack() for subject in runner.subjects}
    images, rows = limited(data, attacks.images, seed)
    places = positions[rows]
    faced = {s.name: predictor(s.model, s.references, s.shape, s.dtype) for s in runner.subjects}
    seconds = sum(
        as_attack(attack).cost * runner.pace[s.name] * len(images)
        for s in runner.subjects
        for attack in attacks.on(s).values()
    )
    if seconds >= 20:
        say(f"attacks on {len(images)} images: about {duration(seconds)}, less what was kept")
    first, checked = attacks.first(), attacks.to_check()
    for subject in runner.subjects:
        model = faced[subject.name]
        found = results[subject.name]
        if attacks.cross_checks:
            with _marked(results[subject.name], "checks of the attacks"):
                few, _ = first_chunk(images, places)
                found.sanity.append(same_answers(model, as_batch(few, subject.device)))
        with _marked(results[subject.name], "attacks"):
            for name, attack in attacks.on(subject).items():
                found.attacks[name] = (attack, False)
                found.columns[name], found.seconds[name] = chunks(
                    runner, subject, images, places, _settings(name, attack), columns_of(model, attack),
                )  # fmt: skip
            if first is not None and attacks.curve:
                grid, attack = list(attacks.curve), first[1]
                columns, _ = chunks(
                    runner, subject, images, places, ["curve", grid, repr(attack)],
                    _broken(model, attack.at, grid),
                )  # fmt: skip
                found.broken, found.curve = columns["broken"], (grid, attack.norm)
    if first is not None and attacks.cross_checks:
        _transfer(runner, results, faced, first, images, places)
    for subject in runner.subjects:
        done = results[subject.name]
        if not any(name in done.columns for name in attacks.named):
            continue
        if attacks.cross_checks and checked is not None and len(data.class_names) > 1:
            with _marked(results[subject.name], "checks of the attacks"):
                done.sanity += panel(runner, subject, faced[subject.name], done, checked, images, places)
        if first is None or first[0] not in done.columns:
            continue
        with _marked(results[subject.name], "examples of the attack"):
            done.strip = _example(subject, faced[subject.name], first, images, places)
    return results


@contextmanager
def _marked(one: UnderAttack, part: str) -> Iterator[None]:
    """Note what goes wrong within as an error of this part: hours of other work must not be lost for it."""
    try:
        yield
    except Exception as error:
        kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        one.errors.append({"part": part, "message": f"{kind}{error}"})


def _settings(name: str, attack: Attack) -> list[Any] | None:
    """What stands for an attack; None for one that is not ours, whose `repr` need not tell it from another."""
    settings = as_attack(attack).settings
    return None if settings is None else [name, settings]


def _broken(model: nn.Module, made: Callable[[float], Attack], grid: Sequence[float]) -> Work:
    """The radius at which each of some images breaks."""
    return lambda images, labels, where: {"broken": broken_at(model, made, grid, images, labels, where)}


class _MadeOnce:
    """An attack on one model whose image of each index is made once, however many other models are shown it."""

    def __init__(self, attack: Any) -> None:
        self.attack, self.eps, self.norm = attack, attack.eps, attack.norm
        self.made: dict[int, Tensor] = {}

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, indices: Sequence[int]) -> Tensor:
        """Adversarial images `[B, C, H, W]` of `images` at `indices` of their set."""
        rows = [row for row, index in enumerate(indices) if index not in self.made]
        if rows:
            new = at_places(self.attack, model, images[rows], targets[rows], [indices[row] for row in rows])
            self.made.update(zip((indices[row] for row in rows), new, strict=True))
        return torch.stack([self.made[index] for index in indices])


def _transfer(
    runner: Runner,
    results: Mapping[str, UnderAttack],
    faced: Mapping[str, nn.Module],
    first: tuple[str, Any],
    images: Any,
    places: Tensor,
) -> None:
    """Images made on one model, judged on every other one; the source that hurts most is kept for each."""
    name = first[0]
    attack = first[1].for_transfer()
    title = f"{name}: from another model"
    for source in runner.subjects:
        settings = None if source.digest is None else ["transfer", source.digest, repr(attack)]
        for target, (columns, seconds) in _from(source, runner, faced, attack, settings, images, places).items():
            found = results[target]
            before = found.columns.get(title)
            if before is not None and columns["robust"].mean() >= before["robust"].mean():
                continue
            found.columns[title], found.seconds[title] = columns, seconds
            found.attacks[title] = (attack, True)


def _from(
    source: Subject,
    runner: Runner,
    faced: Mapping[str, nn.Module],
    attack: Any,
    settings: Any,
    images: Any,
    places: Tensor,
) -> dict[str, tuple[Columns, float]]:
    """(columns, seconds) by name of every other model on the same device, shown images made on `source`."""
    targets = [s for s in runner.subjects if s is not source and s.device == source.device]
    found: dict[str, list[tuple[Columns, float]]] = {target.name: [] for target in targets}
    for start in range(0, len(images), CHUNK):
        some, where = images.subset(range(start, min(start + CHUNK, len(images)))), places[start : start + CHUNK]
        once = _MadeOnce(attack)  # a chunk at a time, so that no more than its images are held
        for target in targets:
            if target.name not in found:
                continue
            try:
                work = columns_of(faced[target.name], once, faced[source.name])
                found[target.name].append(chunks(runner, target, some, where, settings, work))
            except Exception:  # the source has no gradient; it says so in its own column
                del found[target.name]
    return {
        name: ({key: torch.cat([c[key] for c, _ in parts]) for key in parts[0][0]}, sum(s for _, s in parts))
        for name, parts in found.items()
    }


def _example(subject: Subject, model: nn.Module, first: tuple[str, Any], images: Any, places: Tensor) -> dict[str, Any]:
    """A few images before and after the attack, with the model's answers."""
    name, attack = first
    some = images.subset(range(min(SHOWN, len(images))))
    pixels = to_unit(torch.stack([some[i][0] for i in range(len(some))]))
    shown = pixels.to(subject.device)
    made = attack_batch(model, attack, shown, some.labels, places[:SHOWN]).images
    with torch.no_grad(), evaluating(model):
        answers = [model(x).argmax(1).tolist() for x in (shown, made)]
    words = [(some.class_names[a], some.class_names[b]) for a, b in zip(*answers, strict=True)]
    return attack_strip(f"{subject.name}, {name}", pixels, made.cpu(), words)
