"""What an ensemble, of outputs or of weights, gets right that its members do not."""

import torch
from torch import Tensor


def false_false_true(a: Tensor, b: Tensor, ensemble: Tensor, labels: Tensor) -> Tensor:
    """Share of images that both members get wrong and their ensemble gets right, a scalar in [0, 1].

    Above 0 the ensemble does more than to take the better member's answer: it averages away what misled each of them
    (Lin et al., "Spurious Feature Diversification Improves Out-of-distribution Generalization", ICLR 2024). The
    ensemble may be the mean of outputs or of weights.

    Args:
        a, b: predicted classes `[N]` of the members.
        ensemble: predicted classes `[N]` of the ensemble.
        labels: class indices `[N]`.

    Raises:
        ValueError: for probabilities or logits, other shapes, and no images.
    """
    for name, indices in (("a", a), ("b", b), ("ensemble", ensemble), ("labels", labels)):
        if indices.ndim != 1 or indices.is_floating_point() or indices.dtype == torch.bool:
            raise ValueError(
                f"{name} must be class indices [N], but they are {indices.dtype} {list(indices.shape)}: take the "
                "argmax(1) of probabilities or logits"
            )
        if len(indices) != len(labels):
            raise ValueError(f"{name} has {len(indices)} predictions for {len(labels)} labels")
    if len(labels) == 0:
        raise ValueError("a share of no images is undefined: there are 0 labels")
    return ((a != labels) & (b != labels) & (ensemble == labels)).double().mean()
