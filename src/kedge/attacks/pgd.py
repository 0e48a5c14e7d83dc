"""Projected gradient descent, its one-step form, and expectation over references."""

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel
from kedge.anchoring.pixels import evaluating
from kedge.attacks.ball import NORMS, ascend, project, random_start, rounded, wide
from kedge.attacks.bank import Bank
from kedge.attacks.draws import Draws

LOSSES = ("ce", "margin")


@dataclass(frozen=True)
class PGD:
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
    loss: str = "ce"
    targeted: bool = False
    keep: str = "worst"
    over_references: int = 0
    seed: int | None = 0

    def __post_init__(self) -> None:
        check_ball(self.eps, self.norm)
        for name, least in (("steps", 1), ("restarts", 1), ("over_references", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise ValueError(f"{name} must be a whole number, {least} or more, got {value!r}")
        if self.step_size is not None and (not math.isfinite(self.step_size) or (self.step_size <= 0 < self.eps)):
            raise ValueError(f"step_size must be positive, in pixel units of [0, 1], got {self.step_size}")
        if self.loss not in LOSSES:
            raise ValueError(f"loss must be one of {LOSSES}, got {self.loss!r}")
        if self.keep not in ("worst", "last"):
            raise ValueError(f'keep must be "worst" or "last", got {self.keep!r}')
        if self.keep == "last" and (self.early_stop or self.restarts > 1):
            raise ValueError('early_stop and restarts look for the worst image: they need keep="worst"')
        if self.restarts > 1 and not self.random_start:
            raise ValueError(f"restarts={self.restarts} without random_start would do the same thing again")

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
        if self.over_references and isinstance(model, AnchoredModel):
            model = Bank(model)
        if self.over_references and not isinstance(model, Bank):
            raise TypeError(f"over_references needs an anchored model or a Bank, got {type(model).__name__}")
        if self.eps == 0 or len(images) == 0:
            return images.detach().clone()
        # One device-to-host copy at most, before the work starts.
        places = indices.tolist() if isinstance(indices, Tensor) else indices
        mode = evaluating(model) if isinstance(model, nn.Module) else nullcontext()
        with torch.inference_mode(False), torch.enable_grad(), mode:
            # Cloned outside inference mode, the batch of an inference-mode caller is an ordinary tensor.
            images, targets = images.detach().clone(), targets.detach().clone()
            draws = Draws(len(images), self.seed, places, generator)
            return self._search(model, images, targets, draws)

    def _search(self, model: Callable[[Tensor], Tensor], images: Tensor, targets: Tensor, draws: Draws) -> Tensor:
        worst = _Worst(images)
        centre = images.to(torch.promote_types(images.dtype, torch.float32))
        size = self.eps / 4 if self.step_size is None else self.step_size
        bank = len(model.references) if isinstance(model, Bank) else 1
        for _ in range(self.restarts):
            start = random_start(centre, self.eps, self.norm, draws) if self.random_start else centre
            table = draws.choices(bank, len(images), (self.steps, self.over_references), images.device)
            # Index tensors only where some images are left alone: they wait for the device.
            rows: Tensor | slice = (~worst.broken).nonzero()[:, 0] if self.early_stop else slice(None)
            at, x, y, adversarial = images[rows], centre[rows], targets[rows], start[rows]
            picks = table[rows]
            for step in range(self.steps + 1):
                shown = rounded(adversarial, at)
                last = step == self.steps
                if len(shown) == 0 or (last and self.keep == "last"):
                    break
                losses, broken, gradient = self._look(model, shown, y, None if last else picks[:, step])
                # NaN has the sign 0: an attack that follows it stands still, and looks like robustness.
                worst.finite = worst.finite & gradient.isfinite().all()
                worst.update(rows, shown, losses, broken)
                if self.early_stop and bool(broken.any()):
                    left = ~broken
                    assert isinstance(rows, Tensor)
                    rows, at, x, y = rows[left], at[left], x[left], y[left]
                    picks, adversarial, gradient = picks[left], adversarial[left], gradient[left]
                if not last:
                    adversarial = project(
                        ascend(adversarial, gradient.to(x.dtype), size, self.norm), x, self.eps, self.norm
                    )
        found = shown if self.keep == "last" else worst.images
        worst.check(images, found)
        return found

    def _look(
        self, model: Callable[[Tensor], Tensor], shown: Tensor, targets: Tensor, picks: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses `[B]`, whether each image is where the attack wants it `[B]`, and the gradient (`picks` not None)."""
        if picks is None:
            with torch.no_grad():
                return *self._judge(model(shown), targets), shown
        if not self.over_references:
            return self._ascent(model, shown, targets)
        assert isinstance(model, Bank)
        gradient = torch.zeros_like(shown)
        for pick in picks.unbind(1):
            losses, broken, along = self._ascent(partial(model.single, index=pick), shown, targets)
            gradient = gradient + along
        if self.keep == "worst":
            # The mean over the bank decides which point is worst, not one draw.
            with torch.no_grad():
                losses, broken = self._judge(model(shown), targets)
        return losses, broken, gradient

    def _ascent(
        self, model: Callable[[Tensor], Tensor], shown: Tensor, targets: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Losses, whether each image is where the attack wants it, and the gradient: `[B]`, `[B]`, `[B, ...]`."""
        if isinstance(model, Bank):
            # A few images at a time, each with all references: then no activation has to be made again.
            budget = model.budget(len(shown))
            rows = max(budget // len(model.references), 1)
            each = partial(model, max_rows=budget)
            parts = [self._ascent(each, *part) for part in zip(shown.split(rows), targets.split(rows), strict=True)]
            losses, broken, gradient = (torch.cat(column) for column in zip(*parts, strict=True))
            return losses, broken, gradient
        leaf = shown.detach().requires_grad_()
        losses, broken = self._judge(model(leaf), targets)
        return losses.detach(), broken, image_gradient(losses, leaf)

    def _judge(self, logits: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        losses, right = judge(logits, targets, self.loss)
        return (-losses, right) if self.targeted else (losses, ~right)


def FGSM(eps: float, norm: str = "linf", random_start: bool = False, loss: str = "ce", seed: int | None = 0) -> PGD:
    """One step of length eps along the gradient (its sign, in "linf"): Goodfellow et al., ICLR 2015.

    Weak, and fooled by gradients that point nowhere: for training and for comparison with `PGD`.
    """
    return PGD(eps, 1, eps, norm, random_start=random_start, loss=loss, keep="last", seed=seed)


class _Worst:
    """The worst image seen so far for each of B images: misclassified before not, then the higher loss."""

    def __init__(self, images: Tensor) -> None:
        self.images = images.clone()
        self.losses = torch.full(images.shape[:1], -math.inf, device=images.device)
        self.broken = torch.zeros(images.shape[:1], dtype=torch.bool, device=images.device)
        self.finite = torch.ones((), dtype=torch.bool, device=images.device)

    def update(self, rows: Tensor | slice, shown: Tensor, losses: Tensor, broken: Tensor) -> None:
        """Take `shown`, the images `rows`, where they are worse than what is kept."""
        self.finite = self.finite & losses.isfinite().all()
        was = self.broken[rows]
        better = (broken & ~was) | ((broken == was) & (losses > self.losses[rows]))
        self.images[rows] = torch.where(wide(better, shown), shown, self.images[rows])
        self.losses[rows] = torch.where(better, losses.to(self.losses.dtype), self.losses[rows])
        self.broken[rows] = broken | was

    def check(self, images: Tensor, found: Tensor) -> None:
        """Raise ValueError where something was not finite or out of range: the only wait for the device."""
        finite = (self.finite & found.isfinite().all()).to(images.dtype)
        low, high, fine = torch.stack([images.amin(), images.amax(), finite]).tolist()
        if not (low >= -1e-4 and high <= 1 + 1e-4):
            raise ValueError(f"images must be in [0, 1], before normalisation, got [{low:.3g}, {high:.3g}]")
        if not fine:
            raise ValueError(
                "the loss under attack or its gradient is not finite: look for NaN or infinity in the model's logits"
            )


def judge(logits: Tensor, targets: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """The loss `[B]` of each row of `logits` `[B, C]`, at least float32, and whether it is right `[B]`."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(targets):
        seen = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits [{len(targets)}, C], got {seen}")
    if targets.ndim == 2 and targets.shape != logits.shape:
        raise ValueError(f"targets must be probabilities {list(logits.shape)}, got {list(targets.shape)}")
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    label = targets.argmax(1) if targets.ndim == 2 else targets.long()
    right = logits.detach().argmax(1) == label
    if loss == "ce":
        truth = targets.to(logits.dtype) if targets.ndim == 2 else label
        return F.cross_entropy(logits, truth, reduction="none"), right
    own = label[:, None]
    return logits.scatter(1, own, -math.inf).amax(1) - logits.gather(1, own)[:, 0], right


def image_gradient(losses: Tensor, leaf: Tensor) -> Tensor:
    """The gradient of each image's loss `[B]` with respect to that image; parameters are not touched."""
    gradient = torch.autograd.grad(losses.sum(), leaf, allow_unused=True)[0] if losses.requires_grad else None
    if gradient is None:
        raise ValueError(
            "the model's logits carry no gradient with respect to the images (an exported or quantised model, or one "
            "that detaches its input); make the images on a model that has one and judge them on this one (transfer)"
        )
    return gradient


def check_ball(eps: float, norm: str) -> None:
    """Raise ValueError unless `eps` is a radius in pixel units and `norm` is known."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    if not (isinstance(eps, (int, float)) and math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be a number, 0 or more, got {eps!r}")
    words = f"eps={eps:g}, but epsilon is in pixel units of [0, 1]: {eps:g} levels of 255 are {eps:g}/255"
    if norm == "linf" and eps > 1:
        raise ValueError(words)
    if norm == "l2" and eps > 10:
        warnings.warn(words, stacklevel=4)


def check_batch(images: Tensor, targets: Tensor) -> None:
    """Raise TypeError or ValueError unless `images` are floating point and `targets` fit them."""
    if not isinstance(images, Tensor) or not images.is_floating_point():
        kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
        raise TypeError(f"images must be floating point in [0, 1], got {kind}; for uint8 pass images / 255")
    if images.ndim < 2:
        raise ValueError(f"images must be a batch [B, C, H, W], got {list(images.shape)}")
    whole = targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool
    if len(targets) != len(images) or not (whole or (targets.ndim == 2 and targets.is_floating_point())):
        b = len(images)
        raise ValueError(
            f"targets must be class indices [{b}] or probabilities [{b}, C], got {targets.dtype} {list(targets.shape)}"
        )
