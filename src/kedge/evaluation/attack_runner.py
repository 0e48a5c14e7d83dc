"""All attacks on all models, in chunks of images whose results are kept as they are done; and the checks of them."""

import math
import time
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
    attack_summary,
    broken_at,
    predictor,
)
from kedge.evaluation.cache import digest
from kedge.evaluation.checks import limited
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.figures import attack_strip
from kedge.evaluation.inference_runner import Columns, Runner, duration, identity
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sanity import (
    LARGE,
    MANY_STEPS,
    OTHER_LOSS,
    gradient_sizes,
    same_answers,
    sanity,
    sanity_attacks,
)

SHOWN = 4
CHUNK = 100  # images whose results are kept together
Work = Callable[[Tensor, Tensor, Tensor], Columns]  # of images, labels and places


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


def panel(
    runner: Runner,
    subject: Subject,
    model: nn.Module,
    found: UnderAttack,
    checked: tuple[str, Any],
    images: Any,
    places: Tensor,
) -> list[dict[str, Any]]:
    """The checks for gradients that mislead: attacks with each other on all images, with stronger ones on a few.

    `checked` is the PGD that the stronger ones are variants of: of those that were asked for, or else one more of them.
    """
    name, attack = checked
    few, where = first_chunk(images, places)
    whole = {n: attack_summary(c, *_of(found, n)) for n, c in found.columns.items()}
    stronger = {
        n: attack_summary({key: column[:CHUNK] for key, column in c.items()}, found.attacks[n][0])
        for n, c in found.columns.items()
        if n == name or _probed(found.attacks[n][0])
    }
    extra = sanity_attacks(attack, math.prod(images.image_shape))
    if name in found.columns:
        del extra["single step"]  # is among the others
    else:  # what more steps would find is no question to an attack without steps to choose
        extra = {MANY_STEPS: attack, **{key: extra[key] for key in (OTHER_LOSS[attack.loss], LARGE)}}
    for title, variant in extra.items():
        columns, _ = chunks(
            runner, subject, few, where, ["sanity", title, repr(variant)],
            columns_of(model, variant),
        )  # fmt: skip
        stronger[title] = attack_summary(columns, variant)
    sizes, _ = chunks(
        runner, subject, few, where, ["gradients", attack.loss],
        lambda x, y, w: {"sizes": gradient_sizes(model, [(x, y)], attack.loss)},
    )  # fmt: skip
    return sanity(whole) + sanity(stronger, sizes["sizes"])


def _probed(attack: Attack) -> bool:
    """Whether another attack than this one is what gradients are looked at by, so that it stands beside it."""
    probe = as_attack(attack).probe()
    return probe is not None and probe is not attack


def _of(found: UnderAttack, name: str) -> tuple[Attack, float, bool]:
    attack, transfer = found.attacks[name]
    return attack, found.seconds[name], transfer


def columns_of(model: nn.Module, attack: Attack, made_on: nn.Module | None = None) -> Work:
    """What an attack does to some images of a model."""
    return lambda images, labels, where: attack_batch(model, attack, images, labels, where, made_on=made_on).columns()


def chunks(
    runner: Runner,
    subject: Subject,
    images: Any,
    places: Tensor,
    settings: Any,
    work: Work,
) -> tuple[Columns, float]:
    """(columns of all images, seconds): each chunk from what was kept, or by `work` of (images, labels, places).

    Nothing is kept where `settings` is None.
    """
    columns: list[Columns] = []
    total = 0.0
    for start in range(0, len(images), CHUNK):
        some = images.subset(range(start, min(start + CHUNK, len(images))))
        where = places[start : start + CHUNK]
        known = subject.digest is not None and settings is not None
        key = digest(subject.digest, identity(some, where), settings) if known else None
        kept = runner.parts.get(key)
        if kept is None:
            shown = as_batch(some, subject.device)
            started = time.perf_counter()
            kept = work(shown, some.labels.to(subject.device), where)
            kept = {name: column.float().cpu() for name, column in kept.items()}
            kept["_seconds"] = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
            runner.parts.put(key, kept)
        total += float(kept.pop("_seconds"))
        columns.append(kept)
    return {name: torch.cat([c[name] for c in columns]) for name in columns[0]}, total


def first_chunk(images: Any, places: Tensor) -> tuple[Any, Tensor]:
    """The few images that checks are made on, and their places: those of the first chunk."""
    return images.subset(range(min(CHUNK, len(images)))), places[:CHUNK]


def as_batch(images: Any, device: torch.device) -> Tensor:
    """A set of a few images as a batch `[B, C, H, W]` in [0, 1]."""
    return to_unit(torch.stack([images[i][0] for i in range(len(images))])).to(device)
