"""Accuracy and the two proper scoring rules, as pure functions of probabilities."""

import torch
from torch import Tensor

from kedge.metrics._checks import check_probs, check_top_k

SMALLEST = torch.finfo(torch.float32).tiny


def label_rank(probs: Tensor, labels: Tensor) -> Tensor:
    """Place of the true class among the classes, `[B]` int, 0 = first; `probs` (or logits) `[B, C]`.

    Ties go to the lower class index, as `argmax` does, so top-1 accuracy is the share of rank 0 and a
    constant prediction gains nothing from top-k. NaN comes before all others: of a row of NaN nothing is right.
    """
    own = probs.gather(1, labels.long()[:, None])
    lower = torch.arange(probs.shape[1], device=probs.device) < labels[:, None]
    return (~(probs <= own) | ((probs == own) & lower)).sum(dim=1)


def nll_per_sample(probs: Tensor, labels: Tensor) -> Tensor:
    """`[B]` negative log of the true class's probability in nats; 0 counts as 1.2e-38, so at most 87.4."""
    return -probs.float().gather(1, labels.long()[:, None])[:, 0].clamp(min=SMALLEST).log()


def brier_per_sample(probs: Tensor, labels: Tensor) -> Tensor:
    """`[B]` squared distance between `probs` `[B, C]` and the one-hot label, in [0, 2]."""
    probs = probs.float()
    own = probs.gather(1, labels.long()[:, None])[:, 0]
    # Σ p² − 2 p_y + 1 would cancel for a confident correct prediction; this form does not.
    return ((probs.square().sum(dim=1) - own.square()).clamp(min=0)) + (1 - own).square()


def accuracy(probs: Tensor, labels: Tensor, top_k: int = 1) -> Tensor:
    """Share of samples whose true class is among the `top_k` most probable, a scalar in [0, 1]; higher is better.

    `probs` `[B, C]`, `labels` `[B]`. Raises ValueError for logits, for no samples, and for `top_k` not in
    1..C.
    """
    check_probs(probs, labels)
    check_top_k(top_k, probs.shape[1])
    return (label_rank(probs, labels) < top_k).double().mean()


def nll(probs: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the true class in nats, a scalar >= 0; lower is better.

    `probs` `[B, C]`, `labels` `[B]`. A probability of exactly 0 for the true class counts as 1.2e-38, so the
    result is finite. Raises ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    return nll_per_sample(probs, labels).double().mean()


def brier(probs: Tensor, labels: Tensor) -> Tensor:
    """Mean squared distance between the probabilities and the one-hot label, a scalar in [0, 2]; lower is better.

    The multi-class form of Brier (1950): the sum over classes, not their mean. `probs` `[B, C]`, `labels`
    `[B]`. Raises ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    return brier_per_sample(probs, labels).double().mean()
