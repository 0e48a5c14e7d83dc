"""The metrics as `torchmetrics.Metric`: over batches and processes, the same as on the pooled set.

`update` never waits for the device; input that is not probabilities is found at `compute`.
"""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kedge.metrics.calibration import SUM_DTYPE, bin_sums, binned_error, reliability
from kedge.metrics.checks import check_deviation, check_shapes, deviation
from kedge.metrics.classification import brier_per_sample, label_rank, nll_per_sample
from kedge.metrics.detection import auroc, fpr95


class _OfProbs(Metric):
    """Base of the metrics of (probs `[B, C]`, labels `[B]`): remembers the worst deviation from probabilities."""

    is_differentiable = False
    full_state_update = False
    worst: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")

    def _check(self, probs: Tensor, labels: Tensor) -> None:
        check_shapes(probs, labels)
        self.worst = torch.maximum(self.worst, deviation(probs, labels))


class _Mean(_OfProbs):
    """Base of the metrics that are a mean over samples."""

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("total", torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and class indices `[B]`."""
        self._check(probs, labels)
        # A label out of range would stop the device inside gather; compute() reports it instead.
        labels = labels.clamp(0, probs.shape[1] - 1)
        self.total += self._per_sample(probs.detach(), labels).to(SUM_DTYPE).sum()
        self.count += probs.shape[0]

    def compute(self) -> Tensor:
        """The mean over all samples so far (NaN before the first). Raises ValueError if given non-probabilities."""
        check_deviation(self.worst)
        return self.total / self.count


class Accuracy(_Mean):
    """Share of samples whose true class is among the `top_k` most probable, in [0, 1]."""

    higher_is_better = True

    def __init__(self, top_k: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.top_k = top_k

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return label_rank(probs, labels) < self.top_k


class NLL(_Mean):
    """Mean negative log-likelihood in nats, as `kedge.metrics.nll`."""

    higher_is_better = False

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return nll_per_sample(probs, labels)


class Brier(_Mean):
    """Mean multi-class Brier score in [0, 2], as `kedge.metrics.brier`."""

    higher_is_better = False

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return brier_per_sample(probs, labels)


class ECE(_OfProbs):
    """Expected calibration error in [0, 1] over equal-width bins, as `kedge.metrics.calibration_error`.

    Keeps binned sums, so the result is that of the pooled set whatever the batches and the number of
    processes.
    """

    higher_is_better = False
    sums: Tensor

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bins = bins
        self.add_state("sums", torch.zeros(3, bins, dtype=SUM_DTYPE), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and class indices `[B]`."""
        self._check(probs, labels)
        if probs.shape[0]:
            confidence, predicted = probs.detach().max(dim=1)
            self.sums += bin_sums(confidence, predicted == labels, self.bins)

    def compute(self) -> Tensor:
        """The error over all samples so far (NaN before the first). Raises ValueError if given non-probabilities."""
        check_deviation(self.worst)
        return binned_error(self.sums)

    def reliability(self) -> dict[str, list[float | None]]:
        """The reliability diagram of the samples seen by this process (see `kedge.metrics.reliability`)."""
        return reliability(self.sums)


class _OfScores(Metric):
    """Base of the metrics of (scores `[B]`, is_inside `[B]`): keeps all scores, which ranking needs."""

    is_differentiable = False
    full_state_update = False
    scores: list[Tensor]
    is_inside: list[Tensor]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("is_inside", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, is_inside: Tensor) -> None:
        """Add a batch: scores `[B]` (higher = more in-distribution) and bool `[B]` (True = in-distribution)."""
        if scores.ndim != 1 or scores.shape != is_inside.shape or is_inside.dtype != torch.bool:
            raise ValueError(
                f"scores must be [B] and is_inside bool [B], but they are {list(scores.shape)} and "
                f"{is_inside.dtype} {list(is_inside.shape)}"
            )
        self.scores.append(scores.detach())
        self.is_inside.append(is_inside)

    def _sides(self) -> tuple[Tensor, Tensor]:
        scores, is_inside = dim_zero_cat(self.scores), dim_zero_cat(self.is_inside)
        return scores[is_inside], scores[~is_inside]


class AUROC(_OfScores):
    """Area under the ROC curve; in-distribution is the positive class, as `kedge.metrics.auroc`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar in [0, 1]. Raises ValueError when one side is empty."""
        return auroc(*self._sides())


class FPR95(_OfScores):
    """Share of out-of-distribution inputs accepted at 95 % recall, as `kedge.metrics.fpr95`."""

    higher_is_better = False

    def compute(self) -> Tensor:
        """The share over all samples so far, a scalar in [0, 1]. Raises ValueError when one side is empty."""
        return fpr95(*self._sides())
