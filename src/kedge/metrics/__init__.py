"""Calibration, detection and selective metrics: pure functions, and `torchmetrics.Metric` classes.

The functions need torch only. The classes (`Accuracy`, `NLL`, `Brier`, `ECE`, `AUROC`, `FPR95`) accumulate
over batches and processes; they import torchmetrics, which is slow, so they are looked up on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge.metrics.bootstrap import bootstrap_interval, interval, resamples
from kedge.metrics.calibration import bin_sums, binned_error, calibration_error, reliability, resampled_error
from kedge.metrics.classification import accuracy, accuracy_interval, brier, label_rank, nll
from kedge.metrics.detection import auroc, auroc_interval, fpr95
from kedge.metrics.selective import selective_accuracy, threshold_for_coverage

if TYPE_CHECKING:
    from kedge.metrics.accumulators import AUROC as AUROC
    from kedge.metrics.accumulators import ECE as ECE
    from kedge.metrics.accumulators import FPR95 as FPR95
    from kedge.metrics.accumulators import NLL as NLL
    from kedge.metrics.accumulators import Accuracy as Accuracy
    from kedge.metrics.accumulators import Brier as Brier

_ACCUMULATORS = ("AUROC", "ECE", "FPR95", "NLL", "Accuracy", "Brier")
__all__ = [
    *_ACCUMULATORS,
    "accuracy",
    "accuracy_interval",
    "auroc",
    "auroc_interval",
    "bin_sums",
    "binned_error",
    "bootstrap_interval",
    "brier",
    "calibration_error",
    "fpr95",
    "interval",
    "label_rank",
    "nll",
    "reliability",
    "resampled_error",
    "resamples",
    "selective_accuracy",
    "threshold_for_coverage",
]


def __getattr__(name: str) -> Any:
    if name in _ACCUMULATORS:
        return getattr(import_module("kedge.metrics.accumulators"), name)
    raise AttributeError(f"module 'kedge.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
