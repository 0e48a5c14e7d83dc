"""The calibration measures as `torchmetrics.Metric`: over batches and processes, the same as on the pooled set.

All but `EqualMassECE` keep sums of a fixed size, which add up whatever the batches and the number of processes.
"""

from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kedge.metrics._calibration import SUM_DTYPE, binned_error, check_bins, reliability, unchecked_bin_sums
from kedge.metrics._checks import check_deviation, check_shapes, deviation
from kedge.metrics._classification import brier_per_sample
from kedge.metrics._classwise import brier_parts, class_sums, classwise_error
from kedge.metrics._smooth import GRID, grid_sums, smooth_error_of


class Kept(Metric):
    """Base of the metrics that keep every sample: `kept` names the lists and the dtypes of what is in them."""

    kept: ClassVar[dict[str, torch.dtype]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.kept:
            self.add_state(name, [], dist_reduce_fx="cat")

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather what all processes have seen."""
        # A list that is empty is left out of the exchange, and a process that saw nothing would stop the others.
        for name, dtype in self.kept.items():
            if len(getattr(self, name)) == 0:
                setattr(self, name, [torch.zeros(0, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def keep(self, **values: Tensor) -> None:
        """Add a batch, `[B]` under each name."""
        for name, dtype in self.kept.items():
            getattr(self, name).append(values[name].detach().to(dtype))

    def whole(self, name: str) -> Tensor:
        """All samples so far, `[N]`."""
        parts = getattr(self, name)
        return dim_zero_cat(parts) if len(parts) else torch.zeros(0, dtype=self.kept[name], device=self.device)


class OfProbs(Metric):
    """Base of the metrics of (probs `[B, C]`, labels `[B]`): remembers the worst deviation from probabilities."""

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    worst: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("worst", torch.zeros(()), dist_reduce_fx="max")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and class indices `[B]`."""
        check_shapes(probs, labels)
        self.worst = torch.maximum(self.worst, deviation(probs, labels))
        if probs.shape[0]:
            # A label out of range would stop the device inside gather, and so would a NaN inside a scatter; compute()
            # reports them instead.
            self._add(probs.detach().nan_to_num(0).clamp(0, 1), labels.clamp(0, probs.shape[1] - 1))

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        raise NotImplementedError

    def compute(self) -> Any:
        """The measure of all samples so far (NaN before the first). Raises ValueError if given non-probabilities."""
        check_deviation(self.worst)
        return self._value()

    def _value(self) -> Any:
        raise NotImplementedError


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
        """The reliability diagram of the samples seen by this process (see `kedge.metrics.reliability`).

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


class EqualMassECE(Kept, OfProbs):
    """Expected calibration error in [0, 1] over bins of equal mass: `calibration_error` with binning "mass".

    The bins depend on the whole set, so confidences are kept: 9 bytes for each sample.
    """

    kept: ClassVar = {"confidence": SUM_DTYPE, "correct": torch.bool}

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        check_bins(bins)
        super().__init__(**kwargs)
        self.bins = bins

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        confidence, predicted = probs.max(dim=1)
        self.keep(confidence=confidence, correct=predicted == labels)

    def _value(self) -> Tensor:
        return binned_error(unchecked_bin_sums(self.whole("confidence"), self.whole("correct"), self.bins, "mass"))


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
