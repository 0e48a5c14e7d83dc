"""Which attacks are asked for, what each model faces, and what they do to it, chunk by chunk."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.twin import evaluating
from kedge.attacks import as_attack
from kedge.evaluation.attacked import (
    Attack,
    MadeOnce,
    attack_batch,
    attack_summary,
    broken_at,
    epsilon_curve,
    predictor,
)
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.figures import attack_strip
from kedge.evaluation.first_order import first_order_curve, first_order_radius, radii_of
from kedge.evaluation.inputs import as_batch
from kedge.evaluation.runner import Columns, Runner, duration, identity, joined
from kedge.evaluation.sanity import gradient_sizes, probes, same_answers, sanity
from kedge.evaluation.sets import limited

EXAMPLES = 4  # images shown before and after an attack
CHUNK = 100  # images whose results are stored together; as many are what checks are made on
Work = Callable[[Tensor, Tensor, Tensor], Columns]  # of images, labels and places


@dataclass(frozen=True)
class Attacks:
    """What to attack the models with.

    Attributes:
        named: name to attack; an attack has `eps` and `norm`.
        images: at most so many of the test images are attacked, a seeded random subset.
        cross_checks: beside each PGD also a single step, expectation over references on anchored models, and, between
            several models, transfer; on a few images also other losses, more steps and larger radii, beside an
            AutoAttack too; and whether a model answers the same images the same: what masked gradients would hide.
        curve: epsilons of the accuracy curve; () for none. Its attack is the first PGD.
    """

    named: Mapping[str, Attack]
    images: int = 1000
    cross_checks: bool = True
    curve: Sequence[float] = ()

    def __post_init__(self) -> None:
        if not self.named:
            raise ValueError("attacks.named is empty: give attacks by name, such as {'PGD-20': PGD(8/255)}")
        for name, attack in self.named.items():
            if ":" in name:
                raise ValueError(f"the name {name!r} of an attack has a colon, which marks its cross-checks")
            if as_attack(attack).targeted:
                raise ValueError(
                    f"{name}: a targeted attack is led to the classes it is given, and these are the true ones; "
                    "accuracy under attack needs targeted=False"
                )
        if self.images < 1:
            raise ValueError(f"attacks.images must be 1 or more, got {self.images}")

    def check(self, subjects: Sequence[Subject]) -> None:
        """Raise ValueError for models that cannot be attacked as they are asked, ImportError without a library."""
        for attack in self.named.values():
            as_attack(attack).require()
        if all(not self.on(subject) for subject in subjects):
            raise ValueError("expectation over references is for anchored models, and there is none")
        for subject in subjects:
            if isinstance(subject.references, str):
                raise ValueError(
                    f"model {subject.name!r}: references={subject.references!r} chooses references for each input, "
                    "which has no gradient; evaluate attacks with a number of references"
                )

    def methods(self) -> list[Any]:
        """The classes or functions of the attacks, for what to cite."""
        return [as_attack(attack).method for attack in self.named.values()]

    def on(self, subject: Subject) -> dict[str, Attack]:
        """Every attack that this model faces, with the cross-checks."""
        references = subject.model.count(subject.references)
        faced: dict[str, Attack] = {}
        for name, attack in self.named.items():
            if as_attack(attack).over_references and references == 0:
                continue
            faced[name] = attack
            if self.cross_checks:
                checks = as_attack(attack).cross_checks(references)
                faced |= {f"{name}: {form}": check for form, check in checks.items()}
        return faced

    def to_check(self) -> tuple[str, Any] | None:
        """The PGD by which gradients that mislead are looked for: the first, else one in the ball of another attack."""
        first = self.first()
        for name, attack in [*([first] if first else []), *self.named.items()]:
            probe = as_attack(attack).probe()
            if probe is not None:
                return name if probe is attack else probe.title, probe
        return None

    def first(self) -> tuple[str, Any] | None:
        """The attack along the gradient that transfer, the curve and the examples use."""
        return next(((name, a) for name, a in self.named.items() if as_attack(a).follows_gradient), None)


class UnderAttack:
    """One model under attack, and what that does to it.

    Attributes:
        model: what the attacks face.
        columns: name of an attack to what it did to each image.
        attacks: name to the attack, and whether its images were made on another model.
        first_order: accuracy against epsilon as one backward pass predicts it.
        curve, sanity, strip: accuracy against epsilon, signs of gradients that mislead, images before and after.
        errors: what could not be measured, and why.
    """

    def __init__(self, runner: Runner, subject: Subject, images: Any, places: Tensor) -> None:
        self.runner, self.subject, self.images, self.places = runner, subject, images, places
        self.model = predictor(subject.model, subject.references, subject.shape, subject.dtype)
        self.columns: dict[str, Columns] = {}
        self.attacks: dict[str, tuple[Attack, bool]] = {}
        self.seconds: dict[str, float] = {}
        self.curve: dict[str, Any] | None = None
        self.first_order: dict[str, Any] | None = None
        self.sanity: list[dict[str, Any]] = []
        self.strip: dict[str, Any] | None = None
        self.errors: list[dict[str, str]] = []

    def entry(self) -> dict[str, Any]:
        """What the results say."""
        return {
            "attacks": self.summaries(),
            "attack_curve": self.curve,
            "first_order": self.first_order,
            "sanity": self.sanity,
        }

    def summaries(self) -> dict[str, dict[str, Any]]:
        """What the results say of each attack."""
        return {
            name: attack_summary(columns, attack, self.seconds[name], transfer, torch.as_tensor(self.images.labels))
            for name, columns in self.columns.items()
            for attack, transfer in [self.attacks[name]]
        }

    def correct(self) -> dict[str, Tensor]:
        """Name of an attack to bool `[N]`: right under it. Cross-checks and transfer are not compared."""
        return {n: c["robust"].bool() for n, c in self.columns.items() if ":" not in n and not self.attacks[n][1]}

    @contextmanager
    def noting(self, part: str) -> Iterator[None]:
        """Note what goes wrong within as an error of this part: hours of other work must not be lost for it."""
        try:
            yield
        except Exception as error:
            kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
            self.errors.append({"part": part, "message": f"{kind}{error}"})

    def first(self, count: int) -> Any:
        """The first images, so many at most."""
        return self.images.subset(range(min(count, len(self.images))))

    def by(self, attack: Attack, made_on: nn.Module | None = None) -> Work:
        """What an attack does to images, made on this model or on another one."""
        return lambda *batch: attack_batch(self.model, attack, *batch, made_on=made_on).columns()

    def breaking(self, attack: Any, grid: Sequence[float]) -> Work:
        """The smallest radius of `grid` at which an attack breaks images."""
        return lambda *batch: {"broken": broken_at(self.model, attack.at, grid, *batch)}

    def measure(self, settings: Any, work: Work, start: int = 0, stop: int | None = None) -> tuple[Columns, float]:
        """(columns of the images from `start` to `stop`, seconds): each chunk as it was stored, or by `work`.

        `settings` stand for the work; nothing is stored where they are None.
        """
        columns: list[Columns] = []
        total = 0.0
        for place in range(start, min(len(self.images), stop or len(self.images)), CHUNK):
            images = self.images.subset(range(place, min(place + CHUNK, len(self.images))))
            places = self.places[place : place + CHUNK]
            key = None if settings is None else self.subject.key(identity(images, places), settings)
            column = self.runner.parts.get(key)
            if column is None:
                batch, labels = as_batch(images, self.subject.device), images.labels.to(self.subject.device)
                started = time.perf_counter()
                column = {name: values.float().cpu() for name, values in work(batch, labels, places).items()}
                column["_seconds"] = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
                self.runner.parts.put(key, column)
            total += float(column.pop("_seconds"))
            columns.append(column)
        return joined(columns), total


def run_attacks(runner: Runner, attacks: Attacks, data: Any, positions: Tensor, seed: int) -> dict[str, UnderAttack]:
    """Attack every model: what that does to each, by name."""
    images, rows = limited(data, attacks.images, seed)
    targets = [UnderAttack(runner, subject, images, positions[rows]) for subject in runner.subjects]
    seconds = sum(
        as_attack(attack).cost * runner.pace[target.subject.name] * len(images)
        for target in targets
        for attack in attacks.on(target.subject).values()
    )
    if seconds >= 20:
        runner.say(f"attacks on {len(images)} images: about {duration(seconds)}, less what was kept")
    first, checked = attacks.first(), attacks.to_check()
    for target in targets:
        if attacks.cross_checks:
            with target.noting("checks of the attacks"):
                target.sanity.append(same_answers(target.model, as_batch(target.first(CHUNK), target.subject.device)))
        with target.noting("attacks"):
            for name, attack in attacks.on(target.subject).items():
                target.attacks[name] = (attack, False)
                settings = as_attack(attack).settings  # None for one that is not ours: its `repr` need not tell it
                stored_by = None if settings is None else [name, settings]
                target.columns[name], target.seconds[name] = target.measure(stored_by, target.by(attack))
            if first is not None and attacks.curve:
                grid, curved = list(attacks.curve), first[1]
                columns, _ = target.measure(["curve", grid, repr(curved)], target.breaking(curved, grid))
                target.curve = epsilon_curve(columns["broken"], grid, curved.norm)
    if first is not None and attacks.cross_checks:
        _transfer(targets, *first)
    for target in targets:
        if not any(name in target.columns for name in attacks.named):
            continue
        if attacks.cross_checks and checked is not None and len(data.class_names) > 1:
            with target.noting("checks of the attacks"):
                target.sanity += _panel(target, *checked)
        target.first_order = _first_order(target, attacks)
        if first is not None and first[0] in target.columns:
            with target.noting("examples of the attack"):
                target.strip = _example(target, *first)
    return {target.subject.name: target for target in targets}


def _transfer(targets: Sequence[UnderAttack], name: str, attack: Any) -> None:
    """Images made on one model, judged on every other one; the source that hurts most stands for each."""
    attack, title = attack.for_transfer(), f"{name}: from another model"
    for source in targets:
        for target, columns, seconds in _judged(source, targets, attack):
            before = target.columns.get(title)
            if before is None or columns["robust"].mean() < before["robust"].mean():
                target.attacks[title] = (attack, True)
                target.columns[title], target.seconds[title] = columns, seconds


def _judged(
    source: UnderAttack, targets: Sequence[UnderAttack], attack: Any
) -> Iterator[tuple[UnderAttack, Columns, float]]:
    """(model, columns, seconds) of every other model on the same device, shown images made on `source`."""
    settings = source.subject.digest and ["transfer", source.subject.digest, repr(attack)]
    others = [t for t in targets if t is not source and t.subject.device == source.subject.device]
    chunks: dict[UnderAttack, list[tuple[Columns, float]]] = {target: [] for target in others}
    for start in range(0, len(source.images), CHUNK):
        once = MadeOnce(attack)  # a chunk at a time, so that no more than its images are held
        for target in list(chunks):
            try:
                work = target.by(once, made_on=source.model)
                chunks[target].append(target.measure(settings, work, start, start + CHUNK))
            except Exception:  # the source has no gradient; it says so in its own column
                del chunks[target]
    for target, parts in chunks.items():
        yield target, joined([columns for columns, _ in parts]), sum(seconds for _, seconds in parts)


def _panel(target: UnderAttack, name: str, attack: Any) -> list[dict[str, Any]]:
    """The checks for gradients that mislead: attacks with each other on all images, with stronger ones on a few.

    `attack` is the PGD that the stronger ones are variants of: of those that were asked for, or else one more of them.
    """
    stronger = {}
    for each, columns in target.columns.items():
        own = target.attacks[each][0]
        probe = as_attack(own).probe()
        if each == name or (probe is not None and probe is not own):  # what has another as its probe stands beside it
            stronger[each] = attack_summary({key: column[:CHUNK] for key, column in columns.items()}, own)
    for title, variant in probes(attack, math.prod(target.images.image_shape), name in target.columns).items():
        columns, _ = target.measure(["sanity", title, repr(variant)], target.by(variant), stop=CHUNK)
        stronger[title] = attack_summary(columns, variant)
    sizes, _ = target.measure(
        ["gradients", attack.loss],
        lambda images, labels, _: {"sizes": gradient_sizes(target.model, [(images, labels)], attack.loss)},
        stop=CHUNK,
    )
    return sanity(target.summaries()) + sanity(stronger, sizes["sizes"])


def _first_order(target: UnderAttack, attacks: Attacks) -> dict[str, Any] | None:
    """Accuracy against epsilon from one backward pass; without points, and with the reason, where there is no gradient.

    That is no error of the evaluation: attacks may do without gradients.
    """
    asked = radii_of(list(attacks.named.values()), attacks.curve)
    if asked is None or len(target.images.class_names) < 2:
        return None
    norm, grid = asked

    def work(images: Tensor, labels: Tensor, _: Tensor) -> Columns:
        return {"radius": first_order_radius(target.model, images, labels, norm)}

    try:
        columns, _ = target.measure(["first order", norm], work)
    except Exception as error:  # a model of others may fail in any way where gradients are asked of it
        return {"norm": norm, "images": 0, "points": [], "without_gradient": 0, "note": str(error)}
    return first_order_curve(columns["radius"], grid, norm)


def _example(target: UnderAttack, name: str, attack: Any) -> dict[str, Any]:
    """A few images before and after the attack, with the model's answers."""
    some = target.first(EXAMPLES)
    clean = as_batch(some, target.subject.device)
    adversarial = attack_batch(target.model, attack, clean, some.labels, target.places[:EXAMPLES]).images
    with torch.no_grad(), evaluating(target.model):
        answers = [target.model(x).argmax(1).tolist() for x in (clean, adversarial)]
    words = [(some.class_names[a], some.class_names[b]) for a, b in zip(*answers, strict=True)]
    return attack_strip(f"{target.subject.name}, {name}", clean.cpu(), adversarial.cpu(), words)
