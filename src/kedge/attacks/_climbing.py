"""The search for the worst image of a ball: steps along the gradient of the loss, each projected on the ball."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from kedge.anchoring.bank import Bank
from kedge.attacks._ball import ascend, project, random_start, rounded, wide
from kedge.attacks._base import Attack
from kedge.attacks._draws import Draws
from kedge.attacks._losses import check_range, image_gradient, judge


class Climbing(Attack):
    """Base of the attacks that climb the gradient, by settings that `PGD` explains."""

    steps: int
    step_size: float | None
    restarts: int
    loss: str
    start: float
    clip: bool
    early_stop: bool
    keep: str
    check: bool

    @property
    def length(self) -> float:
        """The length of a step in pixel units: `step_size`, or eps / 4."""
        return self.eps / 4 if self.step_size is None else self.step_size

    def search(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        """The worst images for `targets` in the balls round `images`."""
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
