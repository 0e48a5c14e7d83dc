"""Which attacks are asked for, what each model faces, and what they did to it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from kedge.attacks import as_attack
from kedge.evaluation.attacked import Attack, attack_summary, epsilon_curve
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.inference_runner import Columns


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

    def names(self) -> list[str]:
        """The names of the attacks that were asked for."""
        return list(self.named)

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


@dataclass
class UnderAttack:
    """What attacks did to one model."""

    columns: dict[str, Columns] = field(default_factory=dict)
    attacks: dict[str, tuple[Attack, bool]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    broken: Tensor | None = None
    curve: tuple[Sequence[float], str] | None = None
    sanity: list[dict[str, Any]] = field(default_factory=list)
    strip: dict[str, Any] | None = None
    errors: list[dict[str, str]] = field(default_factory=list)

    def entry(self) -> dict[str, Any]:
        """What the results say."""
        summaries = {
            name: attack_summary(columns, attack, self.seconds[name], transfer)
            for name, columns in self.columns.items()
            for attack, transfer in [self.attacks[name]]
        }
        curve = None if self.broken is None or self.curve is None else epsilon_curve(self.broken, *self.curve)
        return {"attacks": summaries, "attack_curve": curve, "sanity": self.sanity}

    def correct(self) -> dict[str, Tensor]:
        """Name of an attack to bool `[N]`: right under it. Cross-checks and transfer are not compared."""
        return {n: c["robust"].bool() for n, c in self.columns.items() if ":" not in n and not self.attacks[n][1]}
