"""Weights of classes, and what they make of the images of a batch."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.objectives._base import Objective
from kedge.objectives._views import without_labels


class ClassWeighted(Objective):
    """Base of the losses that count an image by its class.

    Args:
        class_weights: `[C]`, 0 or more, or None.
        labels: those of the training images `[N]`; with them weights are ratios, brought to a mean of 1 over these
            images. None: weights are taken as they are.

    Raises:
        ValueError: for weights that are negative, not finite, or all below or all above 1, whose mean over no set of
            images is 1; with labels for fewer weights than classes.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Tensor | Sequence[float] | None = None, labels: Tensor | None = None) -> None:
        super().__init__()
        if class_weights is not None and labels is not None:
            class_weights = average_one(class_weights, labels)
        weights = None if class_weights is None else check_weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def weighted_mean(self, losses: Tensor, model: nn.Module, targets: Tensor, outputs: int) -> Tensor:
        """The mean of the losses `[B]` of the images, each counted as `image_weights` says.

        Raises ValueError where there are not as many weights as `outputs` of the model.
        """
        return losses.mean() if self.class_weights is None else self.weighed(losses, model, targets, outputs).mean()

    def weighed(self, losses: Tensor, model: nn.Module, targets: Tensor, outputs: int) -> Tensor:
        """The losses `[B]` of the images times how much each counts; see `weighted_mean`."""
        assert self.class_weights is not None
        if len(self.class_weights) != outputs:
            c = len(self.class_weights)
            raise ValueError(f"class_weights has {c} values, but the model has {outputs} outputs")
        return image_weights(model, targets, self.class_weights.to(losses.device)) * losses


def check_weights(class_weights: Tensor | Sequence[float]) -> Tensor:
    """Insist on class weights `[C]` that are 0 or more and can average 1 over images, given back in float32."""
    weights = torch.as_tensor(class_weights, dtype=torch.float32)
    first = [round(w, 4) for w in weights.flatten().tolist()[:6]]
    if weights.ndim != 1 or len(weights) == 0 or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"class_weights are numbers [C], 0 or more, one for each class, got {first}")
    if bool((weights < 1 - 1e-4).all() | (weights > 1 + 1e-4).all()):
        raise ValueError(
            f"class_weights are relative to an image of weight 1, and all of these are on one side of it: {first}. "
            "Scale them so that the training images weigh 1 on average: weights / weights[labels].mean()"
        )
    return weights


def balanced_weights(labels: Tensor, classes: int) -> Tensor:
    """Weights `[C]` by which every class counts the same: N / (C · n_c), as in scikit-learn's "balanced".

    C is the number of classes that have images: the mean weight of the N images is 1.
    """
    counts = torch.bincount(labels, minlength=classes)
    return len(labels) / (int((counts > 0).sum()) * counts.clamp(min=1).float())


def average_one(class_weights: Any, labels: Tensor) -> Tensor:
    """Weights `[C]` scaled to a mean of 1 over images of these labels; as they are where that is their mean."""
    weights = torch.as_tensor(class_weights, dtype=torch.float32)
    if weights.ndim != 1 or len(weights) <= int(labels.max()):
        raise ValueError(
            f"class_weights has {weights.numel()} values, and the training images have {int(labels.max()) + 1} classes"
        )
    mean = float(weights.double()[labels].mean())
    if not 0 < mean < math.inf:
        raise ValueError(f"class_weights are numbers, 0 or more, one for each class, not {class_weights}")
    return weights if math.isclose(mean, 1, abs_tol=1e-6) else weights / mean


def image_weights(model: Any, targets: Tensor, class_weights: Tensor) -> Tensor:
    """How much each image of a step counts, `[B]`, for class weights `[C]`: Σ_c w_c t_c of its target.

    An image whose target masking replaced by the uniform one (`Anchored`, mask_target="uniform") has no label, and
    counts as one image, 1: the mean of the class weights, which that sum would be, has nothing to do with how often
    images are masked, and is large where a class is rare. With class weights that average 1 over the images, masked
    ones then make up the share alpha of the loss's weight.

    Args:
        model: what the objective was called with.
        targets: class indices `[B]` or probabilities `[B, C]`.
        class_weights: `[C]`.
    """
    weights = class_weights[targets] if targets.ndim == 1 else (targets.to(class_weights.dtype) * class_weights).sum(1)
    unlabelled = without_labels(model)
    return weights if unlabelled is None else torch.where(unlabelled, 1, weights)
