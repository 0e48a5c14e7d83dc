"""Which attacks were asked for, and what each model faces."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from kedge.anchoring import AnchoredModel
from kedge.attacks import FGSM, PGD, AutoAttack
from kedge.attacks.autoattack import library
from kedge.evaluation.attacked import Attack
from kedge.evaluation.evaluated_model import Subject

STEPS = 20  # of the PGD by which an AutoAttack is checked


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
            if getattr(attack, "targeted", False):
                raise ValueError(
                    f"{name}: a targeted attack is led to the classes it is given, and these are the true ones; "
                    "accuracy under attack needs targeted=False"
                )
        if self.images < 1:
            raise ValueError(f"attacks.images must be 1 or more, got {self.images}")

    def check(self, subjects: Sequence[Subject]) -> None:
        """Raise ValueError for models that cannot be attacked as they are asked, ImportError without a library."""
        if any(isinstance(attack, AutoAttack) for attack in self.named.values()):
            library()
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

    def kinds(self) -> list[str]:
        """What to cite."""
        auto = any(isinstance(attack, AutoAttack) for attack in self.named.values())
        return ["attack", *(["autoattack"] if auto else [])]

    def on(self, subject: Subject) -> dict[str, Attack]:
        """Every attack that this model faces, with the cross-checks."""
        found: dict[str, Attack] = {}
        for name, attack in self.named.items():
            if getattr(attack, "over_references", 0) and not isinstance(subject.model, AnchoredModel):
                continue
            found[name] = attack
            if self.cross_checks and isinstance(attack, PGD) and attack.steps > 1:
                found[f"{name}: one step"] = FGSM(attack.eps, attack.norm, loss=attack.loss, seed=attack.seed)
                model = subject.model
                if isinstance(model, AnchoredModel) and _count(subject, model) > 1:
                    # The last point is judged afterwards; to keep the worst would ask the whole bank at every step.
                    expectation = replace(attack, over_references=1, keep="last", early_stop=False, restarts=1)
                    found[f"{name}: over references"] = expectation
        return found

    def to_check(self) -> tuple[str, PGD] | None:
        """The PGD by which gradients that mislead are looked for: the first, else one in the ball of an AutoAttack."""
        asked = self.first()
        for attack in self.named.values():
            if asked is None and isinstance(attack, AutoAttack):
                length = None if attack.norm == "linf" else 2.5 * attack.eps / STEPS
                how: dict[str, Any] = {"early_stop": True, "loss": "margin", "seed": attack.seed}
                asked = f"PGD-{STEPS}", PGD(attack.eps, STEPS, length, attack.norm, **how)
        return asked

    def first(self) -> tuple[str, PGD] | None:
        """The PGD that transfer, the curve and the examples use."""
        for name, attack in self.named.items():
            if isinstance(attack, PGD) and attack.steps > 1 and not attack.over_references:
                return name, attack
        return None


def _count(subject: Subject, model: AnchoredModel) -> int:
    if isinstance(subject.references, Tensor):
        return len(subject.references)
    if isinstance(subject.references, str):
        return 1
    return len(model.references) if subject.references is None else int(subject.references)
