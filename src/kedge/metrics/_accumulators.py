"""The metrics as `torchmetrics.Metric`: over batches and processes, the same as on the pooled set.

`update` never waits for the device; input that is not probabilities is found at `compute`.

A `torchmetrics.MetricCollection` lets metrics share one state when, after the first batch, the names and values of
their states are the same. So a name says what is in it: two metrics of ours have the same names only where every batch
would give them the same values.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from kedge.metrics._calibration import SUM_DTYPE
from kedge.metrics._calibration_accumulators import Kept, OfProbs
from kedge.metrics._checks import check_shapes, check_top_k
from kedge.metrics._classification import brier_per_sample, label_rank, nll_per_sample
from kedge.metrics._detection import aupr_in, aupr_out, auroc, fpr95
from kedge.metrics._selective import aurc, excess_aurc


class _Mean(OfProbs):
    """Base of the metrics that are a mean over samples; the state `summed` holds the sum of what is averaged."""

    count: Tensor

    def __init__(self, summed: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.summed = summed
        self.add_state(summed, torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        raise NotImplementedError

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        total = getattr(self, self.summed) + self._per_sample(probs, labels).to(SUM_DTYPE).sum()
        setattr(self, self.summed, total)
        self.count += probs.shape[0]

    def _value(self) -> Tensor:
        return getattr(self, self.summed) / self.count


class Accuracy(_Mean):
    """Share of samples whose true class is among the `top_k` most probable, in [0, 1], as `kedge.metrics.accuracy`.

    Raises ValueError for `top_k` below 1, and on `update` for one above the number of classes.
    """

    higher_is_better = True

    def __init__(self, top_k: int = 1, **kwargs: Any) -> None:
        check_top_k(top_k)
        super().__init__(f"right_in_{top_k}", **kwargs)
        self.top_k = top_k

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and class indices `[B]`."""
        check_shapes(probs, labels)
        check_top_k(self.top_k, probs.shape[1])
        super().update(probs, labels)

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return label_rank(probs, labels) < self.top_k


class NLL(_Mean):
    """Mean negative log-likelihood in nats, as `kedge.metrics.nll`."""

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("nll_sum", **kwargs)

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return nll_per_sample(probs, labels)


class Brier(_Mean):
    """Mean multi-class Brier score in [0, 2], as `kedge.metrics.brier`."""

    higher_is_better = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__("brier_sum", **kwargs)

    def _per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        return brier_per_sample(probs, labels)


class _OfScores(Kept):
    """Base of the metrics of (scores `[B]`, is_inside `[B]`): keeps all scores, which ranking needs."""

    is_differentiable = False
    full_state_update = False
    kept: ClassVar = {"scores": SUM_DTYPE, "is_inside": torch.bool}

    def update(self, scores: Tensor, is_inside: Tensor) -> None:
        """Add a batch: scores `[B]` (higher = more in-distribution) and bool `[B]` (True = in-distribution)."""
        if scores.ndim != 1 or scores.shape != is_inside.shape or is_inside.dtype != torch.bool:
            raise ValueError(
                f"scores must be [B] and is_inside bool [B], but they are {list(scores.shape)} and "
                f"{is_inside.dtype} {list(is_inside.shape)}"
            )
        self.keep(scores=scores, is_inside=is_inside)

    def _sides(self) -> tuple[Tensor, Tensor]:
        scores, is_inside = self.whole("scores"), self.whole("is_inside")
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


class AUPRIn(_OfScores):
    """Area under precision against recall; in-distribution is the positive class, as `kedge.metrics.aupr_in`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar in (0, 1]. Raises ValueError when one side is empty."""
        return aupr_in(*self._sides())


class AUPROut(_OfScores):
    """Area under precision against recall; out-of-distribution is the positive class, as `kedge.metrics.aupr_out`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar in (0, 1]. Raises ValueError when one side is empty."""
        return aupr_out(*self._sides())


class AURC(Kept):
    """Area under the risk-coverage curve, as `kedge.metrics.aurc`, or with `excess=True` `excess_aurc`."""

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    kept: ClassVar = {"confidence": SUM_DTYPE, "correct": torch.bool}

    def __init__(self, excess: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.excess = excess

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add a batch: confidences `[B]` (best as log odds; higher = surer), and bool `[B]` whether it was right."""
        if confidence.ndim != 1 or confidence.shape != correct.shape or correct.dtype != torch.bool:
            raise ValueError(
                f"confidence must be [B] and correct bool [B], but they are {list(confidence.shape)} and "
                f"{correct.dtype} {list(correct.shape)}"
            )
        self.keep(confidence=confidence, correct=correct)

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar. Raises ValueError before the first."""
        return (excess_aurc if self.excess else aurc)(self.whole("confidence"), self.whole("correct"))
