"""Self-targets: where the model that training starts from is right, its own answer is the target."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_share, check_targets, soft_targets
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_takes_soft
from kedge.objectives._views import without_labels

info = Info(
    "Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models", "Gupta et al.",
    "Findings of NAACL", 2025, "https://arxiv.org/abs/2502.08130", "abstract",
)  # fmt: skip


class SelfTargets(Wrapper):
    """inner(x, t'), with t' = (1 - w) t + w softmax(z₀(x)) where argmax z₀(x) = argmax t, and t' = t elsewhere.

    t is the target and z₀ the logits of the model that training starts from. To go on from a trained model to other
    photos, the labels alone pull all its answers, the right ones too; here only what it gets wrong is pulled. It
    forgets less of what it knew, and learns less of the new: w trades one for the other. A start model that is never
    right leaves the inner objective.

    The paper's models write text, of which many versions are right. Of a classifier the right *label* is the target
    anyway: with labels of the start model in place of its probabilities nothing would change. So the probabilities are
    our reading, and all that this objective does.

    Mixed targets count by their largest share, and where masking took a target away the uniform one stays. Outside
    (`Anchored`, `Mixup`, an attack) objectives decide which images the start model answers; an anchored one answers
    with the first reference of its bank.

    Args:
        inner: the loss; it takes soft targets.
        start_model: the model that answers; a copy is kept, frozen. In a recipe by default the one that the run starts
            from.
        weight: w, the share of its answer, 0 to 1; 0 is the inner objective.

    Raises:
        ValueError: without a start model, as in a run from new weights; for a weight out of range; for an inner
            objective that takes labels alone; when training starts, for a start model of other classes or another image
            size.

    Source: Gupta et al., "Selective Self-to-Supervised Fine-Tuning for Generalization in Large Language Models",
        arXiv 2502.08130 (abstract).
    """

    in_repr = ("weight",)
    classifies = True

    def __init__(self, inner: Objective, start_model: nn.Module | None = None, weight: float = 1.0) -> None:
        super().__init__(inner)
        check_share("weight", weight)
        check_takes_soft(inner, "SelfTargets")
        if start_model is None:
            raise ValueError(
                "SelfTargets learns from what a trained model answers, and this starts from new weights: say "
                "init_from, or {SelfTargets: {start_model: RUN}}"
            )
        self.start = Frozen(start_model, "start model")
        self.weight = weight

    @property
    def passes(self) -> float:
        """Those of the inner objective, and a forward pass of the start model."""
        return super().passes + (1 / 3 if self.weight else 0)

    def prepare(self, model: nn.Module) -> None:
        """See that the start model is one for the model."""
        self.start.check(model)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss; `logged["start_right"]` is the share of images that the start model is right on."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        answers = self.start.beside(model, images)
        soft = soft_targets(check_targets(targets, answers), answers.shape[1])
        right = (answers.argmax(1) == soft.argmax(1)) & (soft.amax(1) > soft.amin(1))
        if (unlabelled := without_labels(model)) is not None:
            right = right & ~unlabelled
        own = answers.to(torch.promote_types(answers.dtype, torch.float32)).softmax(1).to(soft)
        self.logged["start_right"] = right.float().mean()
        return self.inner(model, images, torch.where(right[:, None], torch.lerp(soft, own, self.weight), soft))
