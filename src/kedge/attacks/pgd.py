"""Projected gradient descent."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge import catalog
from kedge.anchoring.bank import Bank
from kedge.anchoring.protocol import as_model
from kedge.attacks._ball import ascend, project, random_start, rounded, wide
from kedge.attacks._base import Attack
from kedge.attacks._draws import Draws
from kedge.attacks._losses import check_ball, check_batch, check_labels, check_range, evaluated, image_gradient, judge
from kedge.catalog import Info

info = Info(
    "Towards Deep Learning Models Resistant to Adversarial Attacks",
    "Madry et al.",
    "ICLR",
    2018,
    "https://arxiv.org/abs/1706.06083",
    "derived",
)
place = 1
words = {"pgd": {}, "pgd-margin": {"loss": "margin"}}

LOSSES = ("ce", "margin")


@dataclass(frozen=True)
class PGD(Attack):
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
    def length(self) -> float:
        """The length of a step in pixel units: `step_size`, or eps / 4."""
        return self.eps / 4 if self.step_size is None else self.step_size

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
            result = self._search(model, images, targets, draws)
        if torch.is_autocast_enabled(images.device.type):
            # Weights cast under no_grad stay in autocast's cache, and the training forward would learn nothing by them.
            torch.clear_autocast_cache()
        return result

    def _search(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        worst = _Worst(images)
        centre = images.to(torch.promote_types(images.dtype, torch.float32))
        size = self.length
        bank = len(model.references) if isinstance(model, Bank) else 1
        for _ in range(self.restarts):
            radius = self.start * self.eps
            start = random_start(centre, radius, self.norm, draws) if self.random_start else centre
            table = draws.choices(bank, len(images), (self.steps, self.over_references), images.device)
            # Index tensors only where some images are left alone: they wait for the device.
            rows: Tensor | slice = (~worst.broken).nonzero()[:, 0] if self.early_stop else slice(None)
            at, x, y, adversarial = images[rows], centre[rows], targets[rows], start[rows]
            picks = table[rows]
            for step in range(self.steps + 1):
                points = rounded(adversarial, at)
                last = step == self.steps
                if len(points) == 0 or (last and self.keep == "last"):
                    break
                losses, broken, gradient = self._look(model, points, y, None if last else picks[:, step])
                if self.check:
                    # NaN has the sign 0: an attack that follows it stands still, and looks like robustness.
                    worst.finite = worst.finite & gradient.isfinite().all() & losses.isfinite().all()
                if self.keep == "worst":
                    worst.update(rows, points, losses, broken)
                if self.early_stop and bool(broken.any()):
                    unbroken = ~broken
                    assert isinstance(rows, Tensor)
                    rows, at, x, y = rows[unbroken], at[unbroken], x[unbroken], y[unbroken]
                    picks, adversarial, gradient = picks[unbroken], adversarial[unbroken], gradient[unbroken]
                if not last:
                    adversarial = ascend(adversarial, gradient.to(x.dtype), size, self.norm)
                    adversarial = project(adversarial, x, self.eps if self.clip else math.inf, self.norm)
        result = points if self.keep == "last" else worst.images
        if self.check:
            worst.check(images, result)
        return result

    def _look(
        self, model: Callable[[Tensor], Tensor], points: Tensor, targets: Tensor, picks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses `[B]`, whether each image is where the attack wants it `[B]`, and the gradient (`picks` not None)."""
        if picks is None:
            with torch.no_grad():
                return *self._judge(model(points), targets), points
        if not self.over_references:
            return self._ascent(model, points, targets)
        assert isinstance(model, Bank)
        gradient = torch.zeros_like(points)
        for pick in picks.unbind(1):
            losses, broken, along = self._ascent(partial(model.single, index=pick), points, targets)
            gradient = gradient + along
        if self.keep == "worst":
            # The mean over the bank decides which point is worst, not one draw.
            with torch.no_grad():
                losses, broken = self._judge(model(points), targets)
        return losses, broken, gradient

    def _ascent(
        self, model: Callable[[Tensor], Tensor], points: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, whether each image is where the attack wants it, and the gradient: `[B]`, `[B]`, `[B, ...]`."""
        if isinstance(model, Bank):
            # A few images at a time, each with all references: then no activation has to be made again.
            budget = model.budget(len(points))
            rows = max(budget // len(model.references), 1)
            each = partial(model, max_rows=budget)
            parts = [self._ascent(each, *part) for part in zip(points.split(rows), targets.split(rows), strict=True)]
            losses, broken, gradient = (torch.cat(column) for column in zip(*parts, strict=True))
            return losses, broken, gradient
        leaf = points.detach().requires_grad_()
        losses, broken = self._judge(model(leaf), targets)
        return losses.detach(), broken, image_gradient(losses, leaf)

    def _judge(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses, right = judge(logits, targets, self.loss)
        return (-losses, right) if self.targeted else (losses, ~right)


class _Worst:
    """The worst image seen so far for each of B images: misclassified before not, then the higher loss."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.losses = torch.full(images.shape[:1], -math.inf, device=images.device)
        self.broken = torch.zeros(images.shape[:1], dtype=torch.bool, device=images.device)
        self.finite = torch.ones((), dtype=torch.bool, device=images.device)

    def update(self, rows: Tensor | slice, points: Tensor, losses: Tensor, broken: Tensor) -> None:
        """Take `points`, the images `rows`, where they are worse than what is kept."""
        was = self.broken[rows]
        better = (broken & ~was) | ((broken == was) & (losses > self.losses[rows]))
        self.images[rows] = torch.where(wide(better, points), points, self.images[rows])
        self.losses[rows] = torch.where(better, losses.to(self.losses.dtype), self.losses[rows])
        self.broken[rows] = broken | was

    def check(self, images: Tensor, result: Tensor) -> None:
        """Raise ValueError where something was not finite or out of range: the only wait for the device."""
        finite = (self.finite & result.isfinite().all()).to(images.dtype)
        low, high, fine = torch.stack([images.amin(), images.amax(), finite]).tolist()
        check_range(low, high)
        if not fine:
            raise ValueError(
                "the loss under attack or its gradient is not finite: look for NaN or infinity in the model's logits"
            )
