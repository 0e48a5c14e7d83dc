"""Calibration, detection and selective metrics: pure functions, and `torchmetrics.Metric` classes.

The functions need torch only. The classes (those with capital letters, such as `ECE`) accumulate over batches and
processes; they import torchmetrics, which is slow, so they are looked up on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge.metrics.bootstrap import bootstrap_interval, interval, resamples
from kedge.metrics.calibration import bin_sums, binned_error, calibration_error, reliability, resampled_error
from kedge.metrics.classification import accuracy, accuracy_interval, brier, label_rank, nll
from kedge.metrics.classwise import BrierParts, brier_decomposition, brier_parts, classwise_calibration_error
from kedge.metrics.detection import auroc, auroc_interval, fpr95
from kedge.metrics.selective import selective_accuracy, threshold_for_coverage
from kedge.metrics.smooth import resampled_smooth_error, smooth_calibration_error, smooth_error
from kedge.metrics.summary import calibration_summary, column_summary

if TYPE_CHECKING:
    from kedge.metrics.accumulators import AUROC as AUROC
    from kedge.metrics.accumulators import FPR95 as FPR95
    from kedge.metrics.accumulators import NLL as NLL
    from kedge.metrics.accumulators import Accuracy as Accuracy
    from kedge.metrics.accumulators import Brier as Brier
    from kedge.metrics.calibration_accumulators import ECE as ECE
    from kedge.metrics.calibration_accumulators import MCE as MCE
    from kedge.metrics.calibration_accumulators import RMSCE as RMSCE
    from kedge.metrics.calibration_accumulators import BrierDecomposition as BrierDecomposition
    from kedge.metrics.calibration_accumulators import ClasswiseECE as ClasswiseECE
    from kedge.metrics.calibration_accumulators import EqualMassECE as EqualMassECE
    from kedge.metrics.calibration_accumulators import SmoothECE as SmoothECE

_ACCUMULATORS = {
    "accumulators": ("AUROC", "FPR95", "NLL", "Accuracy", "Brier"),
    "calibration_accumulators": (
        "ECE",
        "MCE",
        "RMSCE",
        "BrierDecomposition",
        "ClasswiseECE",
        "EqualMassECE",
        "SmoothECE",
    ),
}
_HOMES = {name: home for home, names in _ACCUMULATORS.items() for name in names}
__all__ = [
    *_HOMES,
    "BrierParts",
    "accuracy",
    "accuracy_interval",
    "auroc",
    "auroc_interval",
    "bin_sums",
    "binned_error",
    "bootstrap_interval",
    "brier",
    "brier_decomposition",
    "brier_parts",
    "calibration_error",
    "calibration_summary",
    "classwise_calibration_error",
    "column_summary",
    "fpr95",
    "interval",
    "label_rank",
    "nll",
    "reliability",
    "resampled_error",
    "resampled_smooth_error",
    "resamples",
    "selective_accuracy",
    "smooth_calibration_error",
    "smooth_error",
    "threshold_for_coverage",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kedge.metrics.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
