"""Mixture outlier exposure: images mixed with outliers, and targets as sure as there is of the image left."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight, soft_targets
from kedge.objectives._mixing import check_alpha, drawn_box, drawn_shares
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._views import with_references

info = Info(
    "Mixture Outlier Exposure: Towards Out-of-Distribution Detection in Fine-grained Environments", "Zhang et al.",
    "WACV", 2023, "https://arxiv.org/abs/2106.03917", "code",
)  # fmt: skip
ALPHA = {"mixup": 1.0, "cutmix": 2.0}  # of the authors' code


class MixOE(Wrapper):
    """inner(x, y) + β CE(f(x̃), λ y + (1 - λ) u), x̃ an image mixed with an outlier, u the uniform distribution.

    λ ~ Beta(α, α), drawn once for the batch. `op` "mixup": x̃ = λ x + (1 - λ) o for an outlier o; "cutmix": a box of o
    is pasted into x, and λ is the share of x that is left. Meant for fine-tuning a trained network, so that it becomes
    unsure between the training images and outliers that are like them. x and x̃ are two passes: batch norm sees each
    alone. λ = 1 is (1 + β) times cross-entropy, λ = 0 `OutlierExposure` of weight β with a pass of its own.

    The network becomes much less sure of the images themselves: fit a temperature. On digits it was not above
    `OutlierExposure`, see the claim.

    Outliers come from the stream `outliers`, in a recipe `extra: {outliers: FOLDER}` or `negatives: FOLDER`, as many in
    a step as images. With an anchored model x̃ has the reference and the mask of its x, never pixels of an outlier. Our
    reading: the box is that of `CutMix` here, whose sides are not rounded down to whole pixels.

    Args:
        inner: the loss of the training images.
        op: "mixup" or "cutmix".
        alpha: α, above 0; None: 1 for mixup and 2 for cutmix, as in the authors' code.
        weight: β, 0 or more; 0 is the inner objective, and no outlier is asked for.
        generator: of the draws; None: torch's own.

    Raises:
        ValueError: for another op, values out of range, an inner objective for regression, one that changes images or
            maps logits; when called, for outliers of another shape or number than the images.
        RuntimeError: when called without outliers.

    Source: Zhang et al., "Mixture Outlier Exposure: Towards Out-of-Distribution Detection in Fine-grained
        Environments", WACV 2023, arXiv 2106.03917, and the authors' code, whose script has β = 5.
    """

    reads_logits = True
    streams = ("outliers",)
    in_repr = ("op", "alpha", "weight")
    changes_images = True
    classifies = True

    def __init__(
        self,
        inner: Objective,
        op: str = "mixup",
        alpha: float | None = None,
        weight: float = 5.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inner)
        if op not in ALPHA:
            raise ValueError(f"op is how outliers are mixed in, {' or '.join(ALPHA)}, got {op!r}")
        check_weight("weight", weight)
        check_same_images(inner, "MixOE")
        self.op = op
        self.alpha = ALPHA[op] if alpha is None else alpha
        check_alpha(self.alpha)
        self.weight = weight
        self.generator = generator

    @property
    def passes(self) -> float:
        """Those of the inner objective, and one for the mixed images."""
        return super().passes + (1 if self.weight else 0)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss, and that of the mixed images, which is logged as `mixed_loss`."""
        if self.weight == 0:
            return self.inner(model, images, targets)
        outliers = self.stream("outliers", images)
        model = with_references(model, images)
        loss = self.inner(model, images, targets)
        mixed, share = self._mixed(images, outliers)
        logits = model(mixed)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        classes = logits.shape[1]
        unsure = F.cross_entropy(logits, share * soft_targets(targets, classes).to(logits) + (1 - share) / classes)
        self.logged["mixed_loss"] = unsure.detach()
        return loss + self.weight * unsure

    def _mixed(self, images: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
        """Images with outliers in them, and the share λ of the images."""
        share = drawn_shares(self.alpha, generator=self.generator)[0].to(images.device)
        if self.op == "mixup":
            return torch.lerp(outliers, images, share.to(images.dtype)), share
        if images.ndim != 4:
            raise ValueError(f"op cutmix needs images [B, C, H, W], got {list(images.shape)}")
        box = drawn_box(images, share, self.generator)
        return torch.where(box, outliers, images), 1 - box.float().mean()
