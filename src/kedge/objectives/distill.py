"""Distillation: the softened answers of a trained model as further targets."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_share, soft_targets
from kedge.objectives._divergence import divergence, divergences
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._views import Recorded, without_labels

info = Info(
    "Distilling the Knowledge in a Neural Network", "Hinton, Vinyals and Dean", "arXiv", 2015,
    "https://arxiv.org/abs/1503.02531",
)  # fmt: skip

BY_IMAGE = "wsl"  # in place of a share: weighted soft labels


class Distill(Wrapper):
    """(1 - w) inner(x, y) + w T² KL(softmax(t / T) ‖ softmax(s / T)), t the teacher's logits and s the model's.

    T² keeps the size of the gradients as T changes; for large T the second term is half the mean squared difference of
    the centred logits. The teacher answers the images that the inner objective gets, in eval mode (an anchored one with
    the first reference of its bank). Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    arXiv 1503.02531, section 2.

    With `weight` "wsl", weighted soft labels, each image has a share of its own, w_i = 1 - exp(-CE(s, y) / CE(t, y)),
    without a gradient: much of the teacher where it fits the target better than the model does, nothing of it where the
    model is sure and right.
    Source: Zhou et al., "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective",
    ICLR 2021, arXiv 2102.00650, and the authors' code, which adds the two terms; that they share 1 is as in Hu et al.,
    "Less or More From Teacher", ICLR 2024, arXiv 2312.15112. A share that is learned, as there, is `TGeoKD`.

    Inside of `Anchored` the student has the references of the step, and where masking takes an image's target away the
    teacher's answer is the uniform distribution too. What changes images (`Anchored`, `Mixup`, an attack) belongs
    outside of this objective, so that teacher and student answer the same images.

    Args:
        inner: the loss of the true targets.
        teacher: the model to learn from, with the same classes; a copy is kept, frozen. In a recipe a run, a model
            folder or timm/NAME.
        temperature: T, above 0.
        weight: w, the share of the teacher, 0 to 1; 0 is the inner objective; or "wsl".

    Raises:
        ValueError: for values out of range; an inner objective that changes images, and with "wsl" one that has no loss
            for each image; when training starts, for a teacher of other classes or another image size.
    """

    reads_logits = True
    in_repr = ("temperature", "weight")
    classifies = True

    def __init__(
        self, inner: Objective, teacher: nn.Module, temperature: float = 4.0, weight: float | str = 0.5
    ) -> None:
        super().__init__(inner)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature is a number above 0, got {temperature}")
        if weight == BY_IMAGE:
            if not _has_losses(inner):
                raise ValueError(
                    f"weight {BY_IMAGE} is a share for each image, and {type(inner).__name__} has one loss for all: "
                    "put CrossEntropy inside, or say a number"
                )
        else:
            weight = _number(weight)
            check_share("weight", weight)
        check_same_images(inner, "Distill")
        self.teacher = Frozen(teacher)
        self.temperature = temperature
        self.weight = weight

    @property
    def passes(self) -> float:
        """Those of the inner objective, and a forward pass of the teacher."""
        return super().passes + (1 / 3 if self.weight else 0)

    def prepare(self, model: nn.Module) -> None:
        """See that the teacher is one for the model."""
        self.teacher.check(model)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of the model."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        student = Recorded(model)
        by_image = self.weight == BY_IMAGE
        loss = (self.inner.losses if by_image else self.inner)(student, images, targets)
        taught = self.teacher.beside(model, images)
        if taught.shape != student.logits.shape:
            raise ValueError(f"the teacher gives {list(taught.shape)} logits, the model {list(student.logits.shape)}")
        if (unlabelled := without_labels(model)) is not None:
            taught = taught.masked_fill(unlabelled[:, None], 0)
        if isinstance(self.weight, float):
            return (1 - self.weight) * loss + self.weight * divergence(taught, student.logits, self.temperature)
        share = fitting_share(student.logits.detach(), taught, targets)
        self.logged["teacher_share"] = share.mean()
        return ((1 - share) * loss + share * divergences(taught, student.logits, self.temperature)).mean()


def fitting_share(logits: Tensor, taught: Tensor, targets: Tensor) -> Tensor:
    """1 - exp(-CE(s, y) / CE(t, y)) of each image, `[B]`: of logits s and t `[B, C]` and labels or soft targets y."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    soft = soft_targets(targets, logits.shape[1]).to(wide)
    own, other = (F.cross_entropy(each.to(wide), soft, reduction="none") for each in (logits, taught))
    return -torch.expm1(-own / other.clamp_min(torch.finfo(wide).tiny))


def _has_losses(inner: Objective) -> bool:
    """Whether an objective says the losses of the images whose mean is its own."""
    owner = next(each for each in type(inner).__mro__ if "forward" in vars(each))
    return "losses" in vars(owner)


def _number(weight: float | str) -> float:
    """The weight as a number. Raises ValueError for a word that is none."""
    try:
        return float(weight)
    except ValueError:
        raise ValueError(f"weight is the share of the teacher, 0 to 1, or {BY_IMAGE}, got {weight!r}") from None
