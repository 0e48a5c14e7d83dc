"""The calibration measures as `torchmetrics.Metric`: over batches and processes, the same as on the pooled set.

All but `EqualMassECE` keep sums of a fixed size, which add up whatever the batches and the number of processes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from kedge.metrics._accumulators import OfEverySample, OfProbs
from kedge.metrics._calibration import SUM_DTYPE, binned_error, check_bins, reliability, unchecked_bin_sums
from kedge.metrics._checks import check_deviation
from kedge.metrics._classification import brier_per_sample
from kedge.metrics._classwise import brier_parts, class_sums, classwise_error
from kedge.metrics._smooth import GRID, grid_sums, smooth_error_of


class ECE(OfProbs):
    """Expected calibration error in [0, 1] over equally wide bins, as `kedge.metrics.calibration_error`."""

    norm = "l1"
    sums: Tensor

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins
        self.add_state("sums", torch.zeros(3, bins, dtype=SUM_DTYPE), dist_reduce_fx="sum")

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        confidence, predicted = probs.max(dim=1)
        self.sums += unchecked_bin_sums(confidence, predicted == labels, self.bins)

    def _value(self) -> Tensor:
        return binned_error(self.sums, self.norm)

    def reliability(self) -> dict[str, list[float | None]]:
        """The reliability diagram of the samples of this process (see `kedge.metrics.reliability`).

        Raises ValueError if given non-probabilities, as `compute` does.
        """
        check_deviation(self.worst)
        return reliability(self.sums)


class RMSCE(ECE):
    """Root mean square calibration error in [0, 1]: `kedge.metrics.calibration_error` with norm "l2"."""

    norm = "l2"


class MCE(ECE):
    """Largest calibration error of a bin, in [0, 1]: `kedge.metrics.calibration_error` with norm "max"."""

    norm = "max"


class EqualMassECE(OfEverySample, OfProbs):
    """Expected calibration error in [0, 1] over bins of equal mass: `calibration_error` with binning "mass".

    The bins depend on the whole set, so it holds the confidences: 9 bytes for each sample.
    """

    columns: ClassVar = {"confidence": SUM_DTYPE, "correct": torch.bool}

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        confidence, predicted = probs.max(dim=1)
        self.append(confidence=confidence, correct=predicted == labels)

    def _value(self) -> Tensor:
        return binned_error(unchecked_bin_sums(self.column("confidence"), self.column("correct"), self.bins, "mass"))


class SmoothECE(OfProbs):
    """Smooth calibration error in [0, 1], as `kedge.metrics.smooth_calibration_error`.

    Keeps the residuals summed on its grid, of which the function itself makes use: the result is the same.
    """

    sums: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("sums", torch.zeros(GRID + 1, dtype=SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        confidence, predicted = probs.max(dim=1)
        self.sums += grid_sums(confidence, predicted == labels)
        self.count += len(labels)

    def _value(self) -> Tensor:
        return smooth_error_of(self.sums[None], self.count.to(SUM_DTYPE))[0]


class _OfClasses(OfProbs):
    """Base of the metrics over the bins of each of `num_classes` classes."""

    class_sums: Tensor

    def __init__(self, num_classes: int, bins: int = 15, **kwargs: Any) -> None:
        check_bins(bins)
        if isinstance(num_classes, bool) or not isinstance(num_classes, int) or num_classes < 1:
            raise ValueError(f"num_classes must be a whole number, 1 or more, but it is {num_classes!r}")
        super().__init__(**kwargs)
        self.num_classes, self.bins = num_classes, bins
        self.add_state("class_sums", torch.zeros(3, num_classes, bins, dtype=SUM_DTYPE), dist_reduce_fx="sum")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, num_classes]` and class indices `[B]`."""
        if probs.ndim == 2 and probs.shape[1] != self.num_classes:
            raise ValueError(f"probs have {probs.shape[1]} columns, but num_classes is {self.num_classes}")
        super().update(probs, labels)

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        self.class_sums += class_sums(probs, labels, self.bins)


class ClasswiseECE(_OfClasses):
    """Class-wise calibration error in [0, 1], as `kedge.metrics.classwise_calibration_error`."""

    def _value(self) -> Tensor:
        return classwise_error(self.class_sums)


class BrierDecomposition(_OfClasses):
    """Parts of the Brier score, as `kedge.metrics.brier_decomposition`; `compute` gives a dict of their names."""

    higher_is_better = None  # type: ignore[assignment]
    score: Tensor

    def __init__(self, num_classes: int, bins: int = 15, **kwargs: Any) -> None:
        super().__init__(num_classes, bins, **kwargs)
        self.add_state("score", torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        super()._add(probs, labels)
        self.score += brier_per_sample(probs, labels).to(SUM_DTYPE).sum()

    def _value(self) -> dict[str, Tensor]:
        return brier_parts(self.class_sums, self.score / self.class_sums[0, 0].sum())._asdict()
