"""Distil the mean over a bank of references into the prediction with one of them."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel
from kedge.objectives._base import Objective, check_share, check_targets, soft_targets
from kedge.objectives._views import unwrapped
from kedge.objectives._whole_batch import by_rows
from kedge.objectives.distill import info as info


class OneReference(Objective):
    """Train an anchored model to answer with the first reference of its bank as it answered with all of them.

    The teacher is the model as it is when training starts, frozen; start from a trained one (`init_from`). The folded
    model, which holds one reference, then costs one pass and stands for K. The loss is `weight` KL(teacher ‖ model)
    + (1 - weight) cross-entropy with the targets. Source of distillation: Hinton et al., arXiv 1503.02531, at
    temperature 1.

    Args:
        weight: share of the teacher in the loss, 0 to 1.

    Raises:
        ValueError: for weight out of range.
        RuntimeError: when called before `prepare`.
        TypeError: for a model that is not anchored.
    """

    in_repr = ("weight",)

    def __init__(self, weight: float = 1.0) -> None:
        super().__init__()
        check_share("weight", weight)
        self.weight = weight
        self.teacher: AnchoredModel | None = None

    @property
    def passes(self) -> float:
        """One, and a forward pass of the teacher for each of its references."""
        return 1.0 if self.teacher is None else 1.0 + len(self.teacher.references) / 3

    def prepare(self, model: nn.Module) -> None:
        """Keep a frozen copy of the model as the teacher."""
        self.teacher = copy.deepcopy(_anchored(model)).eval().requires_grad_(False)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of the model with its first reference."""
        core = _anchored(model)
        if self.teacher is None:
            raise RuntimeError("OneReference has no teacher yet: call objective.prepare(model) before training")
        logits = model(images, references=core.references[:1])
        targets = soft_targets(check_targets(targets, logits), core.num_outputs)
        with torch.no_grad():
            taught = by_rows(model, self._taught, images)
        # KL is this cross-entropy up to the teacher's entropy, which has no gradient.
        return F.cross_entropy(logits, self.weight * taught.to(targets) + (1 - self.weight) * targets)

    def _taught(self, images: Tensor) -> Tensor:
        """The teacher's probabilities `[B, C]`."""
        assert self.teacher is not None
        probs = self.teacher.predict(images, check=False).probs
        assert probs is not None
        return probs


def _anchored(model: nn.Module) -> AnchoredModel:
    core = unwrapped(model)
    if not isinstance(core, AnchoredModel):
        raise TypeError(f"OneReference needs an anchored model, got {type(core).__name__}; make one with kedge.anchor")
    return core
