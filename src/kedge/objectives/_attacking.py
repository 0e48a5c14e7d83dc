"""An attack inside a training step: the base of the objectives that train on adversarial images."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel
from kedge.attacks import Attack, as_attack
from kedge.attacks._losses import check_batch, check_labels, check_range, evaluated, image_gradient, judge
from kedge.objectives._base import Objective
from kedge.objectives._nesting import Wrapper, nested
from kedge.objectives._views import unwrapped
from kedge.objectives.anchored import Anchored

# Share of images without any gradient from which on an attack is suspected to see nothing.
VANISHED = 0.5


class Attacking(Wrapper):
    """Base of the objectives with an attack inside: `perturb` makes the images, by an epsilon that may grow.

    The attack sees the model in eval mode with the references and the mask of the step, if `Anchored` is outside; it
    leaves running statistics, modes and the gradients of the weights alone. The first batch is looked at before it is
    trained on; after it no step waits for the device.

    Args:
        inner: the objective of the images that are made.
        attack: `(model, images, targets) -> images`; a `PGD` or `FGSM` of `kedge.attacks` is used in its training
            form: fresh random draws, the last point. Of an attack of your own epsilon cannot grow.
        hold: share of training with epsilon 0, on the images as they are.
        ramp: share of training after it in which epsilon grows linearly to its value; the step size grows with it.
            Both 0: the whole epsilon from the start. "Robust Fine-Tuning from Non-Robust Pretrained Models" (arXiv
            2509.23325), which grows epsilon in place of the learning rate, reads `progress`: see `set_progress`.
        generator: for the random starts; on the device of the images, if it is to cost no time. None: torch's global
            one.
        stages: shares of epsilon, 0 to 1, each for an equal part of training, such as (1/3, 2/3, 1); None: none. Not
            recommended for short trainings: fewer steps at the whole epsilon leave less robust networks, see the claim
            `epsilon_stages`. `Adversarial` takes it.

    Raises:
        ValueError: for values out of range, an attack that is for evaluation only, or an inner objective that draws
            references or mixes images, which belongs outside.
    """

    in_repr: tuple[str, ...] = ("attack", "hold", "ramp")
    changes_images = True
    classifies = True

    def __init__(
        self,
        inner: Objective,
        attack: Attack | None = None,
        hold: float = 0.0,
        ramp: float = 0.0,
        generator: torch.Generator | None = None,
        stages: Sequence[float] | None = None,
    ) -> None:
        super().__init__(inner)
        name = type(self).__name__
        if attack is None:
            raise ValueError(f"{name} needs an attack, such as kedge.attacks.PGD(eps=8/255, steps=10)")
        if not callable(attack):
            raise ValueError(f"the attack of {name} is called with (model, images, targets), got {attack!r}")
        if isinstance(inner, nn.modules.loss._Loss):
            raise ValueError(
                f"{type(inner).__name__} takes outputs and targets; an objective takes (model, images, targets): "
                "kedge.objectives.CrossEntropy()"
            )
        for each in nested(inner):
            if isinstance(each, Anchored | Attacking) or getattr(each, "mixes_targets", False):
                other = type(each).__name__
                if isinstance(each, Attacking):
                    raise ValueError(f"{other} inside {name} would attack what is attacked already: keep one of them")
                what = "draw references that the attack did not see" if isinstance(each, Anchored) else "mix its images"
                raise ValueError(f"{other} inside {name} would {what}; put it outside: {other}({name}(...))")
        if not (0 <= hold < 1 and 0 <= ramp <= 1 and hold + ramp <= 1):
            raise ValueError(f"hold and ramp are shares of training, together at most 1, got {hold} and {ramp}")
        if as_attack(attack).targeted:
            raise ValueError(f"{name} has the true targets, which a targeted attack would make easier: leave it out")
        if stages is not None:
            if isinstance(stages, str) or not stages or not all(0 <= share <= 1 for share in stages) or not any(stages):
                raise ValueError(f"stages are shares of eps, 0 to 1, not all of them 0, such as (0.5, 1), got {stages}")
            if hold or ramp:
                raise ValueError(f"stages {list(stages)} and hold or ramp both say how eps grows: leave one out")
        if (hold or ramp or stages) and not as_attack(attack).scales:
            raise ValueError(f"hold, ramp and stages change the eps of a PGD or FGSM; {attack!r} is none")
        self.attack: Any = as_attack(attack).training()
        self.hold = hold
        self.ramp = ramp
        self.stages = None if stages is None else tuple(stages)
        if stages is not None:
            self.in_repr = (*self.in_repr, "stages")
        self.generator = generator
        self._looked = False

    @property
    def share(self) -> float:
        """The share of epsilon in force, by `progress`: 0 for `hold`, then linearly to 1 for `ramp`; or of a stage."""
        if self.stages is not None:
            return float(self.stages[min(int(self.progress * len(self.stages)), len(self.stages) - 1)])
        past = self.progress - self.hold
        return float(past >= 0) if self.ramp == 0 else min(1.0, max(0.0, past / self.ramp))

    @property
    def attack_passes(self) -> float:
        """Forward and backward passes of the attack; 0 while epsilon is."""
        return float(as_attack(self.attack).steps or 1) if self.share > 0 else 0.0

    @property
    def passes(self) -> float:
        """Those of the attack and those of the inner objective."""
        return self.attack_passes + super().passes

    def perturb(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """Adversarial images, of the shape and dtype of `images`.

        Raises:
            ValueError: on the first batch, for labels that the model has no output for, images outside [0, 1], or a
                model without a gradient with respect to its images.
        """
        attack, first = as_attack(self.attack), not self._looked
        if first and attack.loss is not None:
            self._look(attack, attack.loss, model, images, targets)
        if self.share < 1:
            attack = attack.at(self.share * attack.eps)
        adversarial = attack.in_training(model, images, targets, self.generator, check=first)
        self._looked = True
        return adversarial

    def _look(self, attack: Attack, loss: str, model: nn.Module, images: Tensor, targets: Tensor) -> None:
        check_batch(images, targets)
        check_labels(model, targets)
        if len(images) == 0:
            return
        check_range(*torch.stack(torch.aminmax(images)).tolist())
        # Where the attack begins: at the image itself a divergence has no gradient.
        start = attack.start_of(images.detach())
        if isinstance(unwrapped(model), AnchoredModel):
            warnings.warn(
                f"{type(self).__name__} has an anchored model before it without references of the step, so it attacks "
                f"others than it trains on: put Anchored outside, Anchored({type(self).__name__}(...), alpha=0)",
                stacklevel=4,
            )
        if (self.hold or self.ramp or self.stages) and "progress" not in vars(self):
            warnings.warn(
                "hold, ramp and stages follow the progress of training, and nobody says how far it is, so that epsilon "
                "is that of the end throughout: call kedge.objectives.set_progress(objective, share) before each step",
                stacklevel=4,
            )
        devices = [images.device] if images.device.type == "cuda" else []
        # The draws of a model that stays in training mode are not to move those of the step that follows.
        with torch.random.fork_rng(devices), torch.enable_grad(), evaluated(model):
            leaf = start.clone().requires_grad_()
            logits = model(leaf)
            if isinstance(logits, Tensor) and logits.ndim == 2:
                check_labels(logits.shape[1], targets)
            gradient = image_gradient(judge(logits, targets, loss)[0], leaf)
        vanished = float((gradient.flatten(1).abs().amax(1) == 0).float().mean())
        if vanished > VANISHED:
            warnings.warn(
                f"{100 * vanished:.0f} % of the first batch have a gradient that is exactly zero, so the attack moves "
                "them nowhere: probable gradient masking. If the model is only very sure of them, loss='margin' in "
                "the attack finds a direction; else look for rounding, saturated activations or a detached input",
                stacklevel=3,
            )


def attacks_images(kind: type[nn.Module]) -> bool:
    """Whether objectives of the class `kind` train on attacked images."""
    return issubclass(kind, Attacking)
