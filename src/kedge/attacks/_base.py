"""What an attack says of itself: training, evaluation and the command line ask it, and know none by name."""

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from kedge import specs

STEPS = 20  # of the PGD by which an attack without gradients to look at is checked


class Attack:
    """`(model, images, targets) -> images` within `eps` of each image. A dataclass with `eps` and `norm` needs no more
    than `__call__`; the rest have answers that suit most.

    Attributes:
        eps: the radius in pixel units of [0, 1].
        norm: "linf" or "l2".
        steps, restarts: where there are any to tell.
        loss: whose gradient it climbs; None: training does not look for one before the first step.
        random_start: whether that climb begins beside the image.
        targeted: whether targets are classes to reach.
        over_references: references drawn in each step, which only anchored models have; 0: none.
    """

    room: ClassVar[str] = "attacks"
    eps: float
    norm: str
    steps: int | None = None
    restarts: int | None = None
    loss: str | None = None
    random_start: bool = False
    targeted: bool = False
    over_references: int = 0

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
        """Adversarial images of the shape, dtype and memory format of `images` `[B, C, H, W]` in [0, 1]."""
        raise NotImplementedError

    @property
    def kind(self) -> str:
        """What sort of attack it is, in results: "pgd", "single-step", "eot", "autoattack", ..."""
        return type(self).__name__.lower()

    @property
    def title(self) -> str:
        """What results call it, with the settings that tell it from others of its kind."""
        return type(self).__name__

    @property
    def name(self) -> str:
        """What an evaluation that was asked for it by a word calls it."""
        return self.title

    @property
    def phrase(self) -> str:
        """What it is in a sentence."""
        return self.title

    @property
    def method(self) -> Any:
        """The class or function of the room that it is from, for what to cite."""
        return type(self)

    @property
    def settings(self) -> str | None:
        """What stands for it where its results are stored; None: two attacks cannot be told apart by it."""
        return repr(self) if self.scales else None

    @property
    def cost(self) -> float:
        """Forward passes for an image, a backward one counted as two; about."""
        return 50.0

    @property
    def follows_gradient(self) -> bool:
        """Whether it takes many steps along the gradient: transfer, the curve and the examples are made by such."""
        return False

    @property
    def scales(self) -> bool:
        """Whether it can be had with another radius, see `at`."""
        return dataclasses.is_dataclass(self)

    def record(self) -> dict[str, Any]:
        """What results say of it; None where it does not say."""
        ball = {name: getattr(self, name, None) for name in ("norm", "eps", "steps", "restarts")}
        return {"title": self.title, **ball, "kind": self.kind}

    def require(self) -> None:
        """Raise ImportError, in words, where a library that it needs is not installed."""

    def at(self, eps: float) -> Self:
        """The same attack with another radius."""
        return dataclasses.replace(self, eps=eps)  # type: ignore[type-var]

    def training(self) -> Any:
        """Its form inside of a training step: fresh draws, and no wait for the device."""
        return self

    def for_transfer(self) -> Self:
        """Its form for images that other models are to be shown."""
        return self

    def validation(self, steps: int, seed: int) -> Any:
        """What validation images meet where it is trained on: a PGD in the same ball."""
        return self._pgd(steps=steps, seed=seed)

    def probe(self) -> "Attack | None":
        """The PGD of whose variants gradients that mislead are looked for by; None where there is nothing to learn."""
        length = None if self.norm == "linf" else 2.5 * self.eps / STEPS
        return self._pgd(steps=STEPS, step_size=length, loss="margin", seed=getattr(self, "seed", 0))

    def cross_checks(self, references: int) -> dict[str, "Attack"]:
        """Weaker and other forms to run beside it, by what they are called; `references` of the model, 0: plain."""
        return {}

    def start_of(self, images: Tensor) -> Tensor:
        """Where the climb begins, with draws of its own; for `loss` not None."""
        return images

    def in_training(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> Tensor:
        """Adversarial images for a training step, with draws from `generator`; `check` waits for the device."""
        return self(model, images, targets)

    def _pgd(self, **settings: Any) -> "Attack":
        pgd: Attack = specs.build("attacks", {"pgd": {"early_stop": True, **settings}}, eps=self.eps, norm=self.norm)
        return pgd


class Own(Attack):
    """A function of somebody's own as an attack: it is what its attributes say, and nothing else is known of it."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        self.function = function
        for name in ("eps", "norm", "steps", "restarts", "targeted", "over_references"):
            if hasattr(function, name):
                setattr(self, name, getattr(function, name))

    def __call__(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor) -> Tensor:
        """What the function returns."""
        return self.function(model, images, targets)

    @property
    def title(self) -> str:
        """The name of the function or class."""
        return str(getattr(self.function, "__name__", type(self.function).__name__))

    @property
    def kind(self) -> str:
        """The same in small letters."""
        return self.title.lower()

    @property
    def method(self) -> Any:
        """The function."""
        return self.function

    def training(self) -> Any:
        """The function as it is."""
        return self.function

    def probe(self) -> None:
        """Nothing: what is measured is the attack that was handed over."""
        return


def as_attack(attack: Any) -> Attack:
    """What to ask of an attack: itself, or a function of somebody's own as one."""
    return attack if isinstance(attack, Attack) else Own(attack)
