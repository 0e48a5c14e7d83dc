"""The metrics as `torchmetrics.Metric`: over batches and processes, the same as on the pooled set.

`update` never waits for the device; input that is not probabilities is reported by `compute`.

A `torchmetrics.MetricCollection` lets metrics share one state when, after the first batch, the names and values of
their states are the same. So a name says what is in it: two metrics of ours have the same names only where every batch
would give them the same values.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from kedge.metrics._calibration import SUM_DTYPE
from kedge.metrics._checks import check_deviation, check_shapes, check_top_k, deviation
from kedge.metrics._classification import brier_per_sample, label_rank, nll_per_sample
from kedge.metrics._detection import aupr_in, aupr_out, auroc, fpr95
from kedge.metrics._selective import aurc, excess_aurc


class OfEverySample(Metric):
    """Base of the metrics that need every sample: `columns` names the lists and the dtypes of what is in them."""

    is_differentiable = False
    full_state_update = False
    columns: ClassVar[dict[str, torch.dtype]]

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name in self.columns:
            self.add_state(name, [], dist_reduce_fx="cat")

    def sync(self, *args: Any, **kwargs: Any) -> None:
        """Gather the samples of all processes."""
        # A list that is empty is left out of the exchange, and a process without samples would stop the others.
        for name, dtype in self.columns.items():
            if len(getattr(self, name)) == 0:
                setattr(self, name, [torch.zeros(0, dtype=dtype, device=self.device)])
        super().sync(*args, **kwargs)

    def append(self, **values: Tensor) -> None:
        """Add a batch, `[B]` under each name."""
        for name, dtype in self.columns.items():
            getattr(self, name).append(values[name].detach().to(dtype))

    def append_pair(self, numbers: Tensor, flags: Tensor) -> None:
        """Add a batch of numbers `[B]` and bool `[B]`, the two columns. Raises ValueError for other shapes."""
        one, other = self.columns
        if numbers.ndim != 1 or numbers.shape != flags.shape or flags.dtype != torch.bool:
            raise ValueError(
                f"{one} must be [B] and {other} bool [B], but they are {list(numbers.shape)} and "
                f"{flags.dtype} {list(flags.shape)}"
            )
        self.append(**{one: numbers, other: flags})

    def column(self, name: str) -> Tensor:
        """All samples so far, `[N]`."""
        parts = getattr(self, name)
        return dim_zero_cat(parts) if len(parts) else torch.zeros(0, dtype=self.columns[name], device=self.device)


class _OfScores(OfEverySample):
    """Base of the metrics of (scores `[B]`, is_inside `[B]`), which ranking needs all of."""

    columns: ClassVar = {"scores": SUM_DTYPE, "is_inside": torch.bool}
    measure: Callable[[Tensor, Tensor], Tensor]

    def update(self, scores: Tensor, is_inside: Tensor) -> None:
        """Add a batch: scores `[B]` (higher = more in-distribution) and bool `[B]` (True = in-distribution)."""
        self.append_pair(scores, is_inside)

    def compute(self) -> Tensor:
        """The measure of all samples so far, a scalar in [0, 1]. Raises ValueError when one side is empty."""
        scores, is_inside = self.column("scores"), self.column("is_inside")
        return self.measure(scores[is_inside], scores[~is_inside])


class AUROC(_OfScores):
    """Area under the ROC curve; in-distribution is the positive class, as `kedge.metrics.auroc`."""

    higher_is_better = True
    measure = staticmethod(auroc)


class FPR95(_OfScores):
    """Share of out-of-distribution inputs accepted at 95 % recall, as `kedge.metrics.fpr95`."""

    higher_is_better = False
    measure = staticmethod(fpr95)


class AUPRIn(_OfScores):
    """Area under precision against recall; in-distribution is the positive class, as `kedge.metrics.aupr_in`."""

    higher_is_better = True
    measure = staticmethod(aupr_in)


class AUPROut(_OfScores):
    """Area under precision against recall; out-of-distribution is the positive class, as `kedge.metrics.aupr_out`."""

    higher_is_better = True
    measure = staticmethod(aupr_out)


class AURC(OfEverySample):
    """Area under the risk-coverage curve, as `kedge.metrics.aurc`, or with `excess=True` `excess_aurc`."""

    higher_is_better = False
    columns: ClassVar = {"confidence": SUM_DTYPE, "correct": torch.bool}

    def __init__(self, excess: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.excess = excess

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add a batch: confidences `[B]` (best as log odds; higher = surer), and bool `[B]` whether it was right."""
        self.append_pair(confidence, correct)

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar. Raises ValueError before the first."""
        return (excess_aurc if self.excess else aurc)(self.column("confidence"), self.column("correct"))


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


class _Mean(OfProbs):
    """Base of the metrics that are a mean over samples; the state `summed` holds the sum of what is averaged."""

    summed: str
    per_sample: Callable[[Tensor, Tensor], Tensor]
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state(self.summed, torch.zeros((), dtype=SUM_DTYPE), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def _add(self, probs: Tensor, labels: Tensor) -> None:
        total = getattr(self, self.summed) + self.per_sample(probs, labels).to(SUM_DTYPE).sum()
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
        self.summed = f"right_in_{top_k}"
        super().__init__(**kwargs)
        self.top_k = top_k

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Add a batch: probabilities `[B, C]` and class indices `[B]`."""
        check_shapes(probs, labels)
        check_top_k(self.top_k, probs.shape[1])
        super().update(probs, labels)

    def per_sample(self, probs: Tensor, labels: Tensor) -> Tensor:
        """`[B]` bool: whether the true class is among the most probable."""
        return label_rank(probs, labels) < self.top_k


class NLL(_Mean):
    """Mean negative log-likelihood in nats, as `kedge.metrics.nll`."""

    summed = "nll_sum"
    per_sample = staticmethod(nll_per_sample)


class Brier(_Mean):
    """Mean multi-class Brier score in [0, 2], as `kedge.metrics.brier`."""

    summed = "brier_sum"
    per_sample = staticmethod(brier_per_sample)
