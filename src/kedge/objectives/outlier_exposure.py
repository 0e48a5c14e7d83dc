"""Outlier exposure: images of no class, on which the model is to be unsure."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._nesting import Wrapper
from kedge.objectives._views import BoundReferences, View, bare, repeated

info = Info(
    "Deep Anomaly Detection with Outlier Exposure", "Hendrycks, Mazeika and Dietterich", "ICLR", 2019,
    "https://arxiv.org/abs/1812.04606", "code",
)  # fmt: skip


class OutlierExposure(Wrapper):
    """inner(x, y) + λ H(u; f(x')), the cross-entropy of the uniform distribution u with the answers for outliers x'.

    The network sees images and outliers as one batch, as in the authors' code: batch norm has one set of statistics,
    that of both. An attack inside, which looks at the model in eval mode, gets the images alone. Source: Hendrycks,
    Mazeika and Dietterich, "Deep Anomaly Detection with Outlier Exposure", ICLR 2019 (arXiv 1812.04606), section 3 and
    λ = 0.5 of section 4.3 for classifiers of images.

    Outliers come from the stream `outliers`, in a recipe `extra: {outliers: FOLDER}`, as many in a step as images. With
    an anchored model each has the reference, and the mask, of the image in its place, never another outlier's pixels.

    Args:
        inner: the loss of the training images.
        weight: λ, 0 or more; 0 is the inner objective.

    Raises:
        ValueError: for a weight out of range or an inner objective for regression; when called, for outliers of another
            shape or number than the images.
        RuntimeError: when called without outliers.
    """

    reads_logits = True
    streams = ("outliers",)
    in_repr = ("weight",)
    changes_images = True
    classifies = True

    def __init__(self, inner: Objective, weight: float = 0.5) -> None:
        super().__init__(inner)
        check_weight("weight", weight)
        self.mixes_targets = getattr(inner, "mixes_targets", False)
        self.weight = weight

    @property
    def passes(self) -> float:
        """Those of the inner objective, and one for the outliers."""
        return super().passes + (1 if self.weight else 0)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss, and that of the outliers."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        both = WithOutliers(model, self.stream("outliers", images))
        loss = self.inner(both, images, targets)
        unsure = to_uniform(both.answers)
        self.logged["outlier_loss"] = unsure.detach()
        return loss + self.weight * unsure


def to_uniform(logits: Tensor) -> Tensor:
    """The cross-entropy of the uniform distribution with softmax(logits), the mean over the batch, in float32."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide.logsumexp(1) - wide.mean(1)).mean()


class WithOutliers(View):
    """A view of a model that, in training mode, sees outliers in the same batch and keeps its answers for them."""

    answers: Tensor

    def __init__(self, model: nn.Module, outliers: Tensor) -> None:
        super().__init__(model)
        self.outliers = outliers

    @property
    def module(self) -> nn.Module:
        """The model, as data-parallel wrappers call it: `Anchored` may be inside of this view or outside."""
        return self.model

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Logits `[B, C]` of the images; those of the outliers are kept in `answers`."""
        if not self.training:
            return super().forward(images, **bound)
        count = len(images)
        whole = torch.cat([images, self.outliers])
        fixed = bound.get("references") is not None or any(isinstance(each, BoundReferences) for each in self.modules())
        draw = getattr(bare(self), "draw_references", None) if count > 1 and not fixed else None
        if draw is not None:
            bound["references"] = draw(images)  # as the model would, but never an outlier
        logits = super().forward(whole, **repeated(bound, len(whole)))
        self.answers = logits[count:]
        return self.rows_of(logits)

    def rows_of(self, rows: Tensor) -> Tensor:
        """The rows of the images, without those of the outliers."""
        return rows[: len(rows) - len(self.outliers)] if self.training else rows
