"""Accuracy and the two proper scoring rules, as pure functions of probabilities."""

import math
from statistics import NormalDist

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


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (JASA 1927) of an accuracy of `correct` out of `total` samples, in [0, 1].

    A share is binomial, so no resampling is needed; unlike the bootstrap, it does not shrink to a point when every
    answer was right. Raises ValueError unless 0 <= correct <= total and total >= 1.
    """
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"correct must be in 0..total and total at least 1, but they are {correct} and {total}")
    z, share = NormalDist().inv_cdf(0.5 + level / 2), correct / total
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    reach = z / (1 + z * z / total) * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    # At the ends the formula gives exactly 0 and 1; rounding does not.
    return (middle - reach if correct > 0 else 0.0), (middle + reach if correct < total else 1.0)


def exact_interval(correct: float, total: float, level: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's exact binomial interval (Biometrika 1934) of `correct` out of `total`, in [0, 1].

    It covers the true share with a probability of at least `level` whatever the share and the number, so it is wider
    than `accuracy_interval`: for accuracy under attack, on small subsets. Raises ValueError unless
    0 <= correct <= total and total >= 1, and 0 < level < 1.
    """
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"correct must be in 0..total and total at least 1, but they are {correct} and {total}")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, but it is {level}")
    tail = (1 - level) / 2
    low = _beta_quantile(tail, correct, total - correct + 1) if correct > 0 else 0.0
    high = _beta_quantile(1 - tail, correct + 1, total - correct) if correct < total else 1.0
    return low, high


def _beta_quantile(share: float, a: float, b: float) -> float:
    """The value below which a Beta(a, b) variable falls with probability `share`, by bisection."""
    low, high = 0.0, 1.0
    # Halved until nothing lies between two neighbouring floats.
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if _incomplete_beta(middle, a, b) < share else (low, middle)
    return middle


def _incomplete_beta(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), by its continued fraction (DLMF 8.17.22, Lentz's method)."""
    if x > (a + 1) / (a + b + 2):  # there the fraction converges slowly; I_x(a, b) = 1 - I_{1-x}(b, a)
        return 1 - _incomplete_beta(1 - x, b, a)
    logarithm = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    value = ratio = 1.0
    inverse = 0.0
    for i in range(10_000):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2 == 0:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        else:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        inverse = 1 / (1 + term * inverse or SMALLEST)
        ratio = 1 + term / ratio or SMALLEST
        value *= inverse * ratio
        if i > 0 and abs(inverse * ratio - 1) < 1e-15:
            break
    # The product starts with a first convergent of 2, which stands for 1 + 1 / (1 + ...): take the 1 off again.
    return math.exp(logarithm) / a * (value - 1)
