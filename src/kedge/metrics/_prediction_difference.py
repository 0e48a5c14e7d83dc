"""Prediction difference: how far the answers of one network are from those of another, without labels."""

from torch import Tensor

__all__ = ["prediction_difference"]


def prediction_difference(logits: Tensor, others: Tensor) -> Tensor:
    """Mean KL divergence of the second's probabilities from the first's, KL(p ‖ q) in nats, a scalar of 0 or more.

    Of a network and its quantised copy it says more than the error of features, and needs no labels. It is not
    symmetric: the network in full precision is the first.

    Args:
        logits: `[N, C]` of the one, in float or half precision.
        others: `[N, C]` of the other, on the same images.

    Raises:
        ValueError: for other shapes, no images, and logits that are not finite.

    Source: Liu et al., "PD-Quant", CVPR 2023, arXiv 2212.07048.
    """
    if logits.shape != others.shape or logits.ndim != 2 or not len(logits):
        raise ValueError(
            f"a prediction difference takes the logits [N, C] of both on the same images, got {list(logits.shape)} and "
            f"{list(others.shape)}"
        )
    for which, each in (("first", logits), ("second", others)):
        if not bool(each.isfinite().all()):
            raise ValueError(f"the {which} logits are not finite for {int((~each.isfinite()).any(1).sum())} images")
    p, q = (each.double().log_softmax(1) for each in (logits, others))
    return (p.exp() * (p - q)).sum(1).clamp(min=0).mean()
