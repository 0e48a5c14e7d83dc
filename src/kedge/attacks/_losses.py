"""The loss that an attack climbs, its gradient with respect to the images, and what must hold before it starts."""

import math
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring.twin import evaluating
from kedge.attacks._ball import NORMS
from kedge.checks import check_target_values, check_tensor
from kedge.epsilon import check_epsilon, levels_meant


def evaluated(model: Any) -> AbstractContextManager[None]:
    """Eval mode for a module, every mode given back; a function has none."""
    return evaluating(model) if isinstance(model, nn.Module) else nullcontext()


def judge(logits: Tensor, targets: Tensor, loss: str) -> tuple[Tensor, Tensor]:
    """The loss `[B]` of each row of `logits` `[B, C]`, at least float32, and whether it is right `[B]`."""
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(targets):
        returned = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(f"the model must return logits [{len(targets)}, C], got {returned}")
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
    """The gradient of each image's loss `[B]` with respect to that image, in float32 or better.

    Parameters are not touched.
    """
    # What float16 layers hand back is far below 1 and would be rounded to zero.
    kind = leaf.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else leaf.dtype
    scale = 1024 if half == torch.float16 else 1
    gradient = None
    if losses.requires_grad:
        gradient = torch.autograd.grad(losses.sum() * scale, leaf, allow_unused=True)[0]
    if gradient is None:
        raise ValueError(
            "the model's logits carry no gradient with respect to the images (an exported or quantised model, or one "
            "that detaches its input); make the images on a model that has one and judge them on this one (transfer)"
        )
    # Divided in float16, it would be rounded to zero after all.
    return gradient.to(torch.promote_types(gradient.dtype, torch.float32)) / scale


def check_ball(eps: float, norm: str) -> None:
    """Raise ValueError unless `eps` is a radius in pixel units and `norm` is known."""
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    if not (isinstance(eps, (int, float)) and math.isfinite(eps) and eps >= 0):
        raise ValueError(f"eps must be a number, 0 or more, got {eps!r}")
    check_epsilon(eps, norm)
    if norm == "l2" and eps > 10:
        warnings.warn(levels_meant(eps), stacklevel=4)


def check_labels(model: Any, targets: Tensor) -> None:
    """Raise ValueError for class indices that the model has no output for; waits for the device.

    `model` may be the number of its outputs; of a model that does not say how many it has nothing is known.
    """
    classes = model if isinstance(model, int) else getattr(model, "num_outputs", getattr(model, "num_classes", None))
    if targets.ndim == 1 and isinstance(classes, int):
        check_target_values(targets, classes)


def check_range(low: float, high: float) -> None:
    """Raise ValueError unless the lowest and the highest value of images say that they are in [0, 1]."""
    if not (low >= -1e-4 and high <= 1 + 1e-4):
        raise ValueError(f"images must be in [0, 1], before normalisation, got [{low:.3g}, {high:.3g}]")


def check_batch(images: Tensor, targets: Tensor) -> None:
    """Raise TypeError or ValueError unless `images` are floating point and `targets` fit them."""
    check_tensor(images)
    check_tensor(targets, "targets", "[B] or [B, C]")
    if not images.is_floating_point():
        raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; for uint8 pass images / 255")
    if images.ndim < 2:
        raise ValueError(f"images must be a batch [B, C, H, W], got {list(images.shape)}")
    whole = targets.ndim == 1 and not targets.is_floating_point() and targets.dtype != torch.bool
    if len(targets) != len(images) or not (whole or (targets.ndim == 2 and targets.is_floating_point())):
        b = len(images)
        raise ValueError(
            f"targets must be class indices [{b}] or probabilities [{b}, C], got {targets.dtype} {list(targets.shape)}"
        )
