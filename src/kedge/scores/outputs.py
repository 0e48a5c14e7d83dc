"""What a model says about a batch, computed once and shared by all scores."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel, PlainModel
from kedge.anchoring.pixels import evaluating


@dataclass(frozen=True)
class Outputs:
    """What scores read, for B images.

    Attributes:
        logits: `[B, C]`.
        uncertainty: `[B]` disagreement between references, higher = less sure; None where there is none.
        features: `[B, D]` what the last layer reads, or None when it was not collected.
    """

    logits: Tensor
    uncertainty: Tensor | None = None
    features: Tensor | None = None


def outputs_of(model: Callable[[Tensor], Any], images: Tensor, references: Any = None) -> Outputs:
    """Run `model` on `images` `[B, C, H, W]` in [0, 1], without gradients and in eval mode.

    Its modes are left as they were. A kedge model is asked through `predict`, an anchored one with `references` (an
    int, a tensor, "blt", or None for the whole bank); any other callable must return logits `[B, C]`. Raises
    ValueError when it returns something else.
    """
    if isinstance(model, AnchoredModel):
        prediction = model.predict(images, references=references)
        return Outputs(prediction.logits, prediction.uncertainty)
    if isinstance(model, PlainModel):
        prediction = model.predict(images)
        return Outputs(prediction.logits, prediction.uncertainty)
    with torch.no_grad():
        if isinstance(model, nn.Module):
            with evaluating(model):
                logits = model(images)
        else:
            logits = model(images)
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(images):
        seen = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a model must return logits [B, C], but for {len(images)} images {type(model).__name__} returned {seen}; "
            "wrap it in a function that returns the logits alone"
        )
    return Outputs(logits)
