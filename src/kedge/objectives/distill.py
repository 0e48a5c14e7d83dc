"""Distillation: the softened answers of a trained model as further targets."""

import math

from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_share
from kedge.objectives._divergence import divergence
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._views import Recorded, without_labels

info = Info(
    "Distilling the Knowledge in a Neural Network", "Hinton, Vinyals and Dean", "arXiv", 2015,
    "https://arxiv.org/abs/1503.02531",
)  # fmt: skip


class Distill(Wrapper):
    """(1 - w) inner(x, y) + w T² KL(softmax(t / T) ‖ softmax(s / T)), t the teacher's logits and s the model's.

    T² keeps the size of the gradients as T changes; for large T the second term is half the mean squared difference of
    the centred logits. The teacher answers the images that the inner objective gets, in eval mode (an anchored one with
    the first reference of its bank). Source: Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network",
    arXiv 1503.02531, section 2.

    Inside of `Anchored` the student has the references of the step, and where masking takes an image's target away the
    teacher's answer is the uniform distribution too. What changes images (`Anchored`, `Mixup`, an attack) belongs
    outside of this objective, so that teacher and student answer the same images.

    Args:
        inner: the loss of the true targets.
        teacher: the model to learn from, with the same classes; a copy is kept, frozen. In a recipe a run, a model
            folder or timm/NAME.
        temperature: T, above 0.
        weight: w, the share of the teacher, 0 to 1; 0 is the inner objective.

    Raises:
        ValueError: for values out of range; an inner objective that changes images; when training starts, for
            a teacher of other classes or another image size.
    """

    reads_logits = True
    in_repr = ("temperature", "weight")
    classifies = True

    def __init__(self, inner: Objective, teacher: nn.Module, temperature: float = 4.0, weight: float = 0.5) -> None:
        super().__init__(inner)
        if not (math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"temperature is a number above 0, got {temperature}")
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
        loss = self.inner(student, images, targets)
        taught = self.teacher.beside(model, images)
        if taught.shape != student.logits.shape:
            raise ValueError(f"the teacher gives {list(taught.shape)} logits, the model {list(student.logits.shape)}")
        if (unlabelled := without_labels(model)) is not None:
            taught = taught.masked_fill(unlabelled[:, None], 0)
        return (1 - self.weight) * loss + self.weight * divergence(taught, student.logits, self.temperature)
