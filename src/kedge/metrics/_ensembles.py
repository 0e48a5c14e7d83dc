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


def errors_of(predictions: Tensor, labels: Tensor) -> Tensor:
    """Which of N images each of M members gets wrong, `[M, N]` bool.

    Args:
        predictions: predicted classes `[M, N]`, of the members of an ensemble, or of references.
        labels: class indices `[N]`.

    Raises:
        ValueError: for logits, other shapes, and no images.
    """
    if predictions.ndim != 2 or predictions.is_floating_point() or predictions.dtype == torch.bool:
        raise ValueError(
            f"predictions must be class indices [M, N] of M members, but they are {predictions.dtype} "
            f"{list(predictions.shape)}: of logits [M, N, C] take the argmax(-1)"
        )
    if labels.shape != predictions.shape[1:]:
        raise ValueError(f"{predictions.shape[1]} predictions of each member for {len(labels)} labels")
    if predictions.numel() == 0:
        raise ValueError(
            f"a share of no images or of no members is undefined: predictions are {list(predictions.shape)}"
        )
    return predictions != labels


def wrong_in_all(predictions: Tensor, labels: Tensor) -> Tensor:
    """Share of images that all members get wrong, a scalar in [0, 1]: what no choice among them could mend.

    Args:
        predictions: predicted classes `[M, N]`.
        labels: class indices `[N]`.

    Raises:
        ValueError: for logits, other shapes, and no images.
    """
    return errors_of(predictions, labels).all(0).double().mean()
