"""Intervals of a share of samples: Wilson's, of folds too, and Clopper and Pearson's exact one. Plain Python."""

import math
from statistics import NormalDist

__all__ = ["accuracy_interval", "exact_interval", "folds_interval"]

SMALLEST = 2.0**-126  # in place of 0, by which nothing is divided
OF_FOLDS = 1 / 2  # of the samples of folds: so many that one model answers tell as much; benchmarks/folds.py


def accuracy_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval (JASA 1927) of an accuracy of `correct` out of `total` samples, in [0, 1].

    A share is binomial, so no resampling is needed; unlike the bootstrap, it does not shrink to a point when every
    answer was right. Raises ValueError unless 0 <= correct <= total and total >= 1.
    """
    return _wilson(correct, total, 1, level)


def folds_interval(correct: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """An interval of the accuracy of a model trained on `total` samples, of which `correct` were right over folds.

    `accuracy_interval` of half as many samples: what folds count is no binomial share, as the models share most
    of their samples and none is the one that is asked about, so its own interval is too narrow (Bates, Hastie and
    Tibshirani, JASA 2024). How much wider was set by simulation (`python -m benchmarks.folds`). Raises as
    `accuracy_interval`.
    """
    return _wilson(correct, total, OF_FOLDS, level)


def _wilson(correct: int, total: int, worth: float, level: float) -> tuple[float, float]:
    """`worth`: how many samples of a binomial share one of these tells as much as."""
    if not (total >= 1 and 0 <= correct <= total):
        raise ValueError(f"correct must be in 0..total and total at least 1, but they are {correct} and {total}")
    z, share, n = NormalDist().inv_cdf(0.5 + level / 2), correct / total, worth * total
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
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
