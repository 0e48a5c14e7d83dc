"""What a model says about a batch, computed once and shared by all scores."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from kedge.anchoring.outputs import Outputs
from kedge.anchoring.protocol import as_model

__all__ = ["Outputs", "outputs_of"]


def outputs_of(
    model: Callable[[Tensor], Any],
    images: Tensor,
    references: Any = None,
    *,
    features: bool = False,
    masked: bool = False,
    check: bool = True,
) -> Outputs:
    """Run `model` on `images` `[B, C, H, W]` in [0, 1], without gradients and in eval mode.

    The model is only read, so that threads may ask it at once. A kedge model is asked through `predict`, an anchored
    one with `references` (an int, a tensor, "blt", "adaptive", or None for the whole bank); any other callable must
    return logits `[B, C]`. Raises ValueError when it returns something else, and for images that cannot be in [0, 1].

    Args:
        model: what to run.
        images: the batch.
        references: which references an anchored model uses.
        features: also collect what the last layer reads, in the same pass. A callable that is no module, and a
            network whose last layer is not found (see `last_layer`), has none, nor has "adaptive", where inputs meet
            different numbers of references.
        masked: also run the masked passes of an anchored model, one for each reference; "blt" and "adaptive" take
            the whole bank.
        check: look at the images, for which the device is waited for.
    """
    return as_model(model).outputs(images, references, features=features, masked=masked, check=check)
