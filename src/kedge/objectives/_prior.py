"""The class shares of training as an objective uses them: their logarithm, added to the logits that are trained."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.objectives._views import without_labels

__all__ = ["class_shares", "shifted"]


def class_shares(
    prior: Tensor | Sequence[float] | None, labels: Tensor | None, num_classes: int | None, name: str
) -> Tensor:
    """The shares of the classes, `[C]` float64 that sum to 1: those that are stated, else those of the labels `[N]`.

    Raises:
        ValueError: where neither is there, for shares that are not above 0, and for a class without images.
    """
    if prior is None and labels is None:
        raise ValueError(f"{name} needs the shares of the classes in training: say prior, or hand over the labels")
    if prior is not None:
        counts = torch.as_tensor(prior, dtype=torch.float64)
    else:
        assert labels is not None
        counts = torch.bincount(labels.cpu(), minlength=num_classes or 0).double()
    if counts.ndim != 1 or len(counts) < 2 or not bool((counts.isfinite() & (counts > 0)).all()):
        what = "prior" if prior is not None else "the number of training images"
        raise ValueError(
            f"{name}: {what} must be above 0 for each of two classes or more, as its logarithm is taken, got "
            f"{[round(value, 6) for value in counts.flatten().tolist()[:10]]}"
        )
    return counts / counts.sum()


def shifted(model: Any, logits: Tensor, shift: Tensor, name: str) -> Tensor:
    """Logits `[B, ..., C]` plus `shift` `[..., C]`, in float32 at least; as they are for images without labels.

    An image whose target masking replaced by the uniform one (`Anchored`, mask_target="uniform") is to know nothing,
    and with equal classes to know nothing is to hold all for equally likely: its logits are not shifted.

    Raises:
        ValueError: for other than C outputs.
    """
    if logits.shape[-1] != shift.shape[-1]:
        raise ValueError(
            f"{name} has shares of {shift.shape[-1]} classes, but the model has {logits.shape[-1]} outputs"
        )
    wide = torch.promote_types(logits.dtype, torch.float32)
    moved = shift.to(logits.device, wide).expand(logits.shape)
    unlabelled = without_labels(model) if isinstance(model, nn.Module) else None
    if unlabelled is not None:
        moved = moved.masked_fill(unlabelled.view(-1, *[1] * (logits.ndim - 1)), 0)
    return logits.to(wide) + moved
