"""Projected gradient descent."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kedge import catalog
from kedge.anchoring.bank import Bank
from kedge.anchoring.protocol import as_model
from kedge.attacks._ball import random_start
from kedge.attacks._base import Attack
from kedge.attacks._climbing import Climbing
from kedge.attacks._draws import Draws
from kedge.attacks._losses import check_ball, check_batch, check_labels, evaluated
from kedge.catalog import Info

info = Info(
    "Towards Deep Learning Models Resistant to Adversarial Attacks", "Madry et al.", "ICLR", 2018,
    "https://arxiv.org/abs/1706.06083", "derived",
)  # fmt: skip
place = 1
words = {"pgd": {}, "pgd-margin": {"loss": "margin"}}

LOSSES = ("ce", "margin")


@dataclass(frozen=True)
class PGD(Climbing):
    """Projected gradient ascent on the loss, within eps of each image: `(model, images, targets) -> images`.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018. The model is a
    function of images in [0, 1] that normalises inside; it runs in eval mode and gets every mode back, its parameters
    and their gradients are left alone. Of an anchored model the attack faces what calling it in eval mode computes,
    the first reference; wrap it in `Bank` to attack what it predicts.

    Args:
        eps: the radius in pixel units of [0, 1], such as 8/255; 0 gives the images back.
        steps: gradient steps.
        step_size: in pixel units; None: eps / 4 (2/255 for 8/255).
        norm: "linf", or "l2": over all values of an image.
        restarts: attempts from different random starts, of which each image keeps the worst.
        early_stop: leave an image alone once it is misclassified: for evaluation, where being wrong is all that
            counts; the images found are weaker for training. It waits for the device at every step.
        random_start: begin at a random point of the ball, else at the image.
        start: the radius of the ball that the random start is drawn from, in multiples of eps.
        clip: keep within eps of the image; without it one step from a start outside of the ball stays outside, as in
            N-FGSM. Pixels stay in [0, 1] in any case.
        loss: "ce", cross-entropy; or "margin", the largest other logit less the target's (as Carlini and Wagner 2017),
            whose gradient does not vanish when a model is very sure.
        targeted: `targets` are the classes to reach, not those to leave.
        keep: "worst": of all points visited, each image's worst: misclassified before not, then the higher loss; takes
            one more forward pass; with it, more steps never leave more images right. "last": the last point, usual in
            training.
        over_references: expectation over references (after Athalye et al. 2018): step along the mean gradient of the
            loss under this many references drawn at every step, in place of the gradient for the mean prediction; for
            a `Bank` or an anchored model, whose whole bank is then attacked. 0: off.
        seed: an image's draws depend on the seed and its index only. None: fresh ones from torch's global generator,
            as training needs.
        check: look whether images, targets and gradients were sound, the only wait for the device; `training()` turns
            it off.

    Raises:
        ValueError: for values out of range; eps above 1 in "linf".
    """

    eps: float
    steps: int = 20
    step_size: float | None = None
    norm: str = "linf"
    restarts: int = 1
    early_stop: bool = False
    random_start: bool = True
    start: float = 1.0
    clip: bool = True
    loss: str = "ce"
    targeted: bool = False
    keep: str = "worst"
    over_references: int = 0
    seed: int | None = 0
    check: bool = True

    def __post_init__(self) -> None:
        check_ball(self.eps, self.norm)
        for name, least in (("steps", 1), ("restarts", 1), ("over_references", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
        if self.step_size is not None and (not math.isfinite(self.step_size) or (self.step_size <= 0 < self.eps)):
            raise ValueError(f"step_size must be positive, in pixel units of [0, 1], got {self.step_size}")
        if not math.isfinite(self.start) or self.start <= 0:
            raise ValueError(f"start is a radius in multiples of eps, above 0, got {self.start}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {self.loss!r}")
        if self.keep not in ("worst", "last"):
            raise ValueError(f'keep must be "worst" or "last", got {self.keep!r}')
        if self.keep == "last" and (self.early_stop or self.restarts > 1):
            raise ValueError('early_stop and restarts look for the worst image: they need keep="worst"')
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts={self.restarts} without random_start would do the same thing again")

    @property
    def kind(self) -> str:
        """ "pgd"; "eot" over references; "single-step" of one step."""
        return "eot" if self.over_references else "pgd" if self.follows_gradient else "single-step"

    @property
    def title(self) -> str:
        """Such as "PGD-20, margin loss, 3 restarts"."""
        title = "FGSM" if self.steps == 1 else f"PGD-{self.steps}"
        title += ", margin loss" if self.loss == "margin" else ""
        title += ", expectation over references" if self.over_references else ""
        return title + (f", {self.restarts} restarts" if self.restarts > 1 else "")

    @property
    def phrase(self) -> str:
        """ "one step" or "PGD of 10 steps"."""
        return "one step" if self.steps == 1 else f"PGD of {self.steps} steps"

    @property
    def method(self) -> Any:
        """PGD, or FGSM of one step."""
        return catalog.get("attacks", "fgsm") if self.steps == 1 else PGD

    @property
    def cost(self) -> float:
        """Three for each step of each attempt, under each reference drawn."""
        return 3.0 * self.steps * self.restarts * max(1, self.over_references) + 2

    @property
    def follows_gradient(self) -> bool:
        """Of more steps than one, along the gradient of what is predicted."""
        return self.steps > 1 and not self.over_references

    def record(self) -> dict[str, Any]:
        """What results say of it."""
        return {**super().record(), "random_start": self.random_start, "loss": self.loss}

    def at(self, eps: float) -> "PGD":
        """The same attack with another radius, its step as large a share of that."""
        share = None if self.step_size is None or self.eps == 0 else self.step_size / self.eps
        return replace(self, eps=eps, step_size=self.step_size if share is None else share * eps)

    def for_transfer(self) -> "PGD":
        """Without an early stop: an image has then hardly crossed a boundary that other models may share."""
        return replace(self, early_stop=False)

    def probe(self) -> "PGD | None":
        """Itself, where it follows the gradient."""
        return self if self.follows_gradient else None

    def single_step(self) -> "PGD":
        """One step of the whole radius: `FGSM` in the same ball, with the same loss."""
        return PGD(self.eps, 1, self.eps, self.norm, random_start=False, loss=self.loss, keep="last", seed=self.seed)

    def cross_checks(self, references: int) -> dict[str, Attack]:
        """A single step, which must not find more; on several references also expectation over them."""
        if self.steps == 1:
            return {}
        checks: dict[str, Attack] = {"one step": self.single_step()}
        if references > 1:
            # The last point is judged afterwards; to keep the worst would ask the whole bank at every step.
            expectation = replace(self, over_references=1, keep="last", early_stop=False, restarts=1)
            checks["over references"] = expectation
        return checks

    def start_of(self, images: Tensor) -> Tensor:
        """A random point of the ball that it starts from, or the images."""
        if not self.random_start:
            return images
        return random_start(images, self.start * self.eps, self.norm, Draws(len(images), 0))

    def in_training(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        generator: torch.Generator | None = None,
        check: bool = False,
    ) -> Tensor:
        """As for any attack; `check` looks whether images, targets and gradients were sound."""
        return replace(self, check=self.check or check)(model, images, targets, generator=generator)

    def training(self) -> "PGD":
        """The same attack as a training step needs it: fresh draws, the last point, no wait for the device.

        Raises:
            ValueError: for early_stop or restarts, which look for the one worst image and are for evaluation.
        """
        if self.early_stop or self.restarts > 1:
            setting = "early_stop" if self.early_stop else f"restarts={self.restarts}"
            raise ValueError(f"{setting} is for evaluation: a training step takes the last point of one attempt")
        return replace(self, seed=None, keep="last", check=False)

    def __call__(
        self,
        model: Callable[[Tensor], Tensor],
        images: Tensor,
        targets: Tensor,
        *,
        indices: Tensor | Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Adversarial images of the shape, dtype and memory format of `images`.

        Args:
            model: images `[B, C, H, W]` to logits `[B, C]`; a module or a function that autograd can follow.
            images: `[B, C, H, W]` floating point in [0, 1].
            targets: class indices `[B]` or probabilities `[B, C]`, whose most probable class is the one to leave.
            indices: `[B]`, the place of each image in its set, so that its random draws do not depend on the batch it
                is in; None: 0 to B - 1.
            generator: fresh draws from it, in place of the seed.

        Raises:
            TypeError: for uint8 images; with `over_references`, for a model that is not anchored.
            ValueError: for images outside [0, 1], logits that are not finite or have no gradient, shapes that differ.
        """
        check_batch(images, targets)
        if self.over_references and as_model(model).count():
            model = as_model(model).for_attack()
        if self.over_references and not isinstance(model, Bank):
            raise TypeError(f"over_references needs an anchored model or a Bank, got {type(model).__name__}")
        if self.eps == 0 or len(images) == 0:
            return images.detach().clone()
        if self.check:
            check_labels(model, targets)
        # One device-to-host copy at most, before the work starts.
        places = indices.tolist() if isinstance(indices, Tensor) else indices
        with torch.inference_mode(False), torch.enable_grad(), evaluated(model):
            # Cloned outside inference mode, the batch of an inference-mode caller is an ordinary tensor.
            images, targets = images.detach().clone(), targets.detach().clone()
            draws = Draws(len(images), self.seed, places, generator)
            result = self.search(model, images, targets, draws)
        if torch.is_autocast_enabled(images.device.type):
            # Weights cast under no_grad stay in autocast's cache, and the training forward would learn nothing by them.
            torch.clear_autocast_cache()
        return result
