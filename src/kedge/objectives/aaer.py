"""Abnormal adversarial examples: single-step training that does not collapse, and an alarm for when it does."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kedge.attacks import Attack, as_attack
from kedge.attacks._losses import judge
from kedge.catalog import Info
from kedge.objectives._attacking import Attacking
from kedge.objectives._base import Objective, check_share
from kedge.objectives._nesting import check_same_images
from kedge.objectives._views import Recorded

info = Info(
    "Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization", "Lin, Yu and Liu",
    "NeurIPS", 2023, "https://arxiv.org/abs/2404.08154", "code",
)  # fmt: skip

# The authors' (λ1, λ2, λ3) on CIFAR-10, by the variant of FGSM and by eps in levels of 255.
PUBLISHED = {
    "rs": {8: (1.0, 2.5, 1.5), 12: (1.0, 5.0, 2.75), 16: (1.0, 7.0, 3.25), 32: (1.0, 5.75, 1.5)},
    "n": {8: (1.0, 1.5, 0.15), 12: (1.0, 5.0, 0.55), 16: (1.0, 8.5, 1.5), 32: (1.0, 2.75, 0.75)},
}


class AAER(Attacking):
    """Train on the images of one FGSM step, and hold back those whose loss it lowered.

    A step up the gradient should raise an image's loss. Where the model has curled up so much that it falls, the image
    is abnormal; training on such images makes more of them, until the model withstands one step and no second one
    (catastrophic overfitting). With n of B images abnormal, z and ℓ logits and cross-entropy at the random start, z'
    and ℓ' after the step:

        inner(x') + w λ1 n/B (λ2 mean_abnormal(ℓ - ℓ') + λ3 max(0, V_abnormal - V_normal)),  V = mean ‖z - z'‖²

    without the second term where all or none are abnormal. As in the authors' code, only the z' of abnormal images
    carry a gradient in it: λ2's part counts in the loss that is shown and changes no weight, see `follow_fall`.
    Source: Lin, Yu and Liu, "Eliminating Catastrophic Overfitting Via Abnormal Adversarial Examples Regularization",
    NeurIPS 2023, arXiv 2404.08154; formula and weights checked against the authors' code.

    `logged["abnormal_ratio"]` is n/B: near 0 in sound training, rising some epochs before a collapse. With
    weights=(0, 0, 0) this is FGSM training with that alarm.

    The start and the image after the step are seen by one function, the model in the mode it is in: unlike other
    attacks here the step is taken in training mode, with the batch's own statistics. Running statistics see the images
    after the step only. Layers that draw at random, such as dropout, draw twice, which can make an image look abnormal.

    Args:
        inner: the loss of the images after the step.
        attack: `FGSM(eps, variant="rs")` or `"n"`; one step.
        weights: (λ1, λ2, λ3); None: the authors' for CIFAR-10, variant and eps, at 8, 12, 16 or 32/255, whichever is
            nearest.
        warmup: share of training in which w grows linearly from 0 to 1, for long runs: 0.1 where the authors take 20
            of 200 epochs. It follows `progress`, see `set_progress`; 0: w is 1.
        follow_fall: give λ2's part the gradient of ℓ', as the equation read literally has one: it raises the loss of
            abnormal images again. The published weights are for training without it.
        hold, ramp, generator: as of `Attacking`.

    Raises:
        ValueError: as of `Attacking`; for an attack of more than one step; without weights, for an attack for which
            none are published; for weights that are negative, and an inner objective that shows the model other images.
    """

    reads_logits = True

    def __init__(
        self,
        inner: Objective,
        attack: Attack | None = None,
        weights: Sequence[float] | None = None,
        warmup: float = 0.0,
        follow_fall: bool = False,
        hold: float = 0.0,
        ramp: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        if attack is None or as_attack(attack).steps != 1 or as_attack(attack).loss is None:
            steps = None if attack is None else as_attack(attack).steps
            got = f"{steps} steps" if steps else repr(attack)
            raise ValueError(
                f"AAER compares an image before and after one step: its attack is FGSM(eps, variant='rs') or 'n' of "
                f"kedge.attacks, got {got}"
            )
        if attack.loss != "ce" or attack.targeted:
            raise ValueError('AAER tells abnormal images by their cross-entropy: loss="ce", not targeted')
        super().__init__(inner, attack, hold, ramp, generator)
        check_same_images(inner, type(self).__name__)
        chosen = published_weights(attack) if weights is None else tuple(float(w) for w in weights)
        if len(chosen) != 3 or not all(math.isfinite(w) and w >= 0 for w in chosen):
            raise ValueError(f"weights are three numbers (λ1, λ2, λ3), 0 or more, got {weights}")
        check_share("warmup", warmup, "a share of training")
        self.weights = chosen
        self.warmup = warmup
        self.follow_fall = follow_fall

    def extra_repr(self) -> str:
        """What `repr` shows."""
        more = ", follow_fall=True" if self.follow_fall else ""
        return f"weights={self.weights}, warmup={self.warmup}{more}, {super().extra_repr()}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss after the step, and what abnormal images add to it."""
        start = AsItIs(model)
        with unrecorded_statistics(model):
            adversarial = self.perturb(start, images, targets)
        recorded = Recorded(model)
        loss = self.inner(recorded, adversarial, targets)
        if self.attack.eps == 0 or self.share == 0:
            self.logged["abnormal_ratio"] = torch.zeros((), device=images.device)
            return loss
        ratio, fall, excess = abnormality(start.logits, recorded.logits, targets)
        self.logged["abnormal_ratio"] = ratio
        first, second, third = self.weights
        fall = fall if self.follow_fall else fall.detach()
        grown = min(self.progress / self.warmup, 1.0) if self.warmup else 1.0
        return loss + grown * first * ratio * (second * fall + third * excess)


def abnormality(before: Tensor, after: Tensor, targets: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How abnormal a batch is, of logits `[B, C]` at the start and after the step; nothing waits for the device.

    Returns:
        Three scalars: the share of abnormal images; how much their loss fell, on average; and by how much more than
        the others' their logits moved (squared distances), or 0. The last two are 0 where all or none are abnormal.
        Gradients go through `after` of abnormal images alone.
    """
    wide = torch.promote_types(after.dtype, torch.float32)
    before, after = before.detach().to(wide), after.to(wide)
    fell = judge(before, targets, "ce")[0] - judge(after, targets, "ce")[0]
    abnormal = fell.detach() > 0
    ratio = abnormal.to(wide).mean()
    moved = (before - after).square().sum(1)
    excess = (_mean_of(moved, abnormal) - _mean_of(moved.detach(), ~abnormal)).clamp_min(0)
    both = abnormal.any() & ~abnormal.all()
    zero = torch.zeros_like(ratio)
    return ratio, torch.where(both, _mean_of(fell, abnormal), zero), torch.where(both, excess, zero)


def published_weights(attack: Attack) -> tuple[float, float, float]:
    """The authors' weights for an FGSM attack, those of the nearest of their epsilons."""
    variants: dict[object, str] = {(1.0, True): "rs", (2.0, False): "n"}
    variant = variants.get((getattr(attack, "start", None), getattr(attack, "clip", None)))
    if variant is None or not attack.random_start or attack.norm != "linf":
        raise ValueError(
            "the published weights of AAER are for FGSM variants 'rs' and 'n' in linf; for another attack give "
            "weights=(λ1, λ2, λ3), or (0, 0, 0) for the abnormal ratio alone"
        )
    table = PUBLISHED[variant]
    return table[min(table, key=lambda level: abs(level / 255 - attack.eps))]


class AsItIs(nn.Module):
    """A view of a model that stays in its mode when the view is put in eval mode, and keeps its last logits."""

    logits: Tensor

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # In a tuple it is no submodule, so an attack that sets the mode of all modules does not find it.
        self.inside = (model,)
        self.num_outputs = getattr(model, "num_outputs", getattr(model, "num_classes", None))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]`, kept in `logits` without their graph."""
        logits: Tensor = self.inside[0](images)
        self.logits = logits.detach()
        return logits


@contextmanager
def unrecorded_statistics(model: nn.Module) -> Iterator[None]:
    """Batch normalisation in training mode uses the statistics of its batch, as ever, and does not record them."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True


def _mean_of(values: Tensor, mask: Tensor) -> Tensor:
    """The mean of the values `[B]` where `mask`; 0 of none."""
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)
