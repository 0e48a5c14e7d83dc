"""Quadratic weighted kappa: agreement of ordered classes beyond chance, where far wrong counts more than near."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Bounds, Metric
from kedge.metrics._bootstrap import percentile_interval
from kedge.metrics._ordered import applies_to, check_ranks

info = Info(
    "Weighted kappa: Nominal scale agreement provision for scaled disagreement or partial credit", "Cohen",
    "Psychological Bulletin", 1968, "https://doi.org/10.1037/h0026256", "code",
)  # fmt: skip


def quadratic_kappa(predicted: Tensor, labels: Tensor) -> Tensor:
    """1 - Σ (i - j)² O_ij / Σ (i - j)² E_ij, a scalar in [-1, 1]; higher is better.

    O counts labels i that were answered j, E what the same labels and answers would give if they had nothing to do with
    each other. 1 is all right, 0 as good as answers by chance with these frequencies, below 0 worse. As E comes of the
    frequencies alone, it is 1 - mean (p - y)² / (mean p² + mean y² - 2 mean p mean y). NaN where labels and answers are
    all of one class: nothing can agree beyond chance there.

    Args:
        predicted, labels: ranks `[N]`, class indices of classes in their order, 0 the lowest.

    Raises:
        ValueError: for probabilities or logits, other shapes, and no images.

    Source: Cohen, Psychological Bulletin 1968; checked against sklearn.metrics.cohen_kappa_score.
    """
    check_ranks(predicted, labels)
    return _kappa(predicted, labels, torch.ones(1, len(labels), dtype=torch.float64))[0]


def _kappa(predicted: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    """`[R]` float64 of weights `[R, N]`, how often each image counts."""
    # From the middle, so that float32 weights do not round squares of large ranks.
    centre = labels.double().mean()
    p, y = predicted.double() - centre, labels.double() - centre
    columns = torch.stack([(p - y).square(), p.square() + y.square(), p, y, torch.ones_like(p)], dim=1)
    apart, squares, mean_p, mean_y, count = (weights.double() @ columns).unbind(1)
    return 1 - apart * count / (squares * count - 2 * mean_p * mean_y)


class QuadraticKappa(Metric):
    """Agreement of answers and labels beyond chance; for models whose recipe says that their classes are ordered."""

    label = "quadratic weighted kappa"
    unit = ""
    order = 74
    bottom: ClassVar[float] = -1.0
    summary = ("clean",)
    probs = True
    words = (
        "The classes are ordered, and an answer counts by the square of how many places it is off: 1 is all right, 0 "
        "no better than answers by chance that are as frequent, below 0 worse."
    )
    convention = "quadratic weighted kappa of the most probable class (Cohen 1968); interval: bootstrap percentiles"

    def applies(self, sample: Answers) -> bool:
        return applies_to(sample) and len(torch.cat([sample["predicted"], sample.labels]).unique()) > 1

    def value(self, sample: Answers) -> float:
        return float(quadratic_kappa(sample["predicted"], sample.labels))

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        predicted, labels = sample["predicted"], sample.labels
        # A resample of one class alone has no kappa; that of all images stands for it.
        return lambda weights: _kappa(predicted, labels, weights).nan_to_num(self.value(sample))

    def bounds(self, draws: Tensor, value: float, center: float, size: int) -> Bounds:
        return percentile_interval(draws, value, size)
