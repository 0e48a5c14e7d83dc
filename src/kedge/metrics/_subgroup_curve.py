"""Accuracy on the curve: whether the accuracy of models on one group of images tells that on another."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["FEWEST_MODELS", "SubgroupCurve", "subgroup_curve"]

FEWEST_MODELS = 3  # a line goes through any two points
SAME = 1e-9  # accuracies closer than this do not differ


@dataclass(frozen=True)
class SubgroupCurve:
    """The line, and the parabola, through the accuracies of models on two groups of images.

    Attributes:
        models: how many points there are.
        slope, intercept: of the least-squares line; None where the first group's accuracies do not differ.
        r2: the share of the variance of the second group's accuracies that the line explains, in [0, 1]; None where
            either group's accuracies do not differ.
        r2_low, r2_high: 95 % interval, by resampling models; None without resamples, or where most of them have none,
            as of three models, whose resamples are mostly of two.
        quadratic: (a, b, c) of the parabola a x² + b x + c; None of fewer than four models or three accuracies.
        p: of the F test that a is 0; None without a parabola that leaves something.
        probit_r2: as `r2` on probit axes; None where accuracies of 0 or 1 cannot be placed there.
        clipped: how many accuracies were 0 or 1 and stand at 1/(2n) from it on the probit axes.
    """

    models: int
    slope: float | None
    intercept: float | None
    r2: float | None
    r2_low: float | None
    r2_high: float | None
    quadratic: tuple[float, float, float] | None
    p: float | None
    probit_r2: float | None
    clipped: int

    def to_json(self) -> dict[str, Any]:
        """As it stands in results."""
        return asdict(self)


def subgroup_curve(
    majority: Sequence[float],
    minority: Sequence[float],
    images: tuple[int, int] | None = None,
    n: int = 1000,
    seed: int = 0,
) -> SubgroupCurve:
    """Fit a line and a parabola to the accuracies `[M]` of M models on a minority group against those on a majority.

    Where R² of the line is near 1 the accuracy on the one tells that on the other; with a spurious correlation in
    training the points leave the line, on a curve below the diagonal. The interval resamples models: those of one
    training are not independent, and theirs is too narrow.

    Args:
        majority, minority: accuracies in [0, 1], in the same order; the order of models does not matter.
        images: how many images each group has, for probit axes, where 0 and 1 have no place and stand at 1/(2n).
        n, seed: resamples of the interval, 0 for none.

    Raises:
        ValueError: for fewer than three models, as many of the one as of the other, what is no accuracy.

    Source: Liang et al., "Accuracy on the Curve", ICML 2023, arXiv 2305.02995; the fits and tests are ours.
    """
    x, y = (np.asarray(each, dtype=np.float64) for each in (majority, minority))
    if x.shape != y.shape or x.ndim != 1:
        raise ValueError(f"a curve takes two accuracies of each model, but got {x.shape} and {y.shape}")
    if len(x) < FEWEST_MODELS:
        raise ValueError(f"a line goes through any two points: it takes {FEWEST_MODELS} models or more, got {len(x)}")
    for each in (x, y):
        if not ((each >= 0) & (each <= 1)).all():
            raise ValueError(f"accuracies lie in [0, 1], got {each[~((each >= 0) & (each <= 1))][0]}")
    from scipy.special import ndtri  # slow to import

    slope, intercept, r2 = _line(x, y)
    low, high = _interval(x, y, n, seed) if n and r2 is not None else (None, None)
    quadratic, p = _parabola(x, y)
    at_ends = int(((x == 0) | (x == 1)).sum() + ((y == 0) | (y == 1)).sum())
    probit = None
    if images is not None or not at_ends:
        ends = (0.0, 0.0) if images is None else (1 / (2 * images[0]), 1 / (2 * images[1]))
        probit = _line(*(ndtri(v.clip(e, 1 - e)) for v, e in zip((x, y), ends, strict=True)))[2]
    if r2 is not None and low is not None and high is not None:
        low, high = min(low, r2), max(high, r2)
    return SubgroupCurve(len(x), slope, intercept, r2, low, high, quadratic, p, probit, at_ends)


def _line(x: np.ndarray, y: np.ndarray) -> tuple[float | None, float | None, float | None]:
    """(slope, intercept, R²) of the least-squares line; None where they are not defined."""
    dx, dy = x - x.mean(), y - y.mean()
    if np.ptp(x) < SAME:
        return None, None, None
    slope = float(dx @ dy / (dx @ dx))
    r2 = None if np.ptp(y) < SAME else float(min(1.0, (dx @ dy) ** 2 / ((dx @ dx) * (dy @ dy))))
    return slope, float(y.mean() - slope * x.mean()), r2


def _parabola(x: np.ndarray, y: np.ndarray) -> tuple[tuple[float, float, float] | None, float | None]:
    """((a, b, c), p of the F test against the line); None where there are too few different points."""
    if len(x) < FEWEST_MODELS + 1 or len(np.unique(x.round(9))) < 3:
        return None, None
    from scipy.special import fdtrc

    # About the mean of x, where the three columns are far from parallel.
    centre = x.mean()
    columns = np.vander(x - centre, 3)
    (a, b, c), *_ = np.linalg.lstsq(columns, y, rcond=None)
    left = float(((y - columns @ (a, b, c)) ** 2).sum())
    straight, *_ = np.linalg.lstsq(columns[:, 1:], y, rcond=None)
    of_line = float(((y - columns[:, 1:] @ straight) ** 2).sum())
    free = len(x) - 3
    p = None if left < SAME**2 else float(fdtrc(1, free, max(0.0, of_line - left) / (left / free)))
    return (float(a), float(b - 2 * a * centre), float(c - b * centre + a * centre**2)), p


def _interval(x: np.ndarray, y: np.ndarray, n: int, seed: int) -> tuple[float | None, float | None]:
    """Percentiles of R² over resamples of the models; None where fewer than half of them have one.

    A resample of two different points has none: a line goes through them, and their 1 says nothing.
    """
    draws = np.random.default_rng(seed).integers(len(x), size=(n, len(x)))
    _, point = np.unique(np.stack([x, y], 1).round(9), axis=0, return_inverse=True)
    enough = [rows for rows in draws if len(np.unique(point[rows])) >= FEWEST_MODELS]
    values = [r2 for rows in enough if (r2 := _line(x[rows], y[rows])[2]) is not None]
    if len(values) < n / 2:
        return None, None
    low, high = np.quantile(values, (0.025, 0.975))
    return float(low), float(high)
