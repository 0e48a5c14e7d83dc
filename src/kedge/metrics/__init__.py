"""Calibration, detection and selective metrics: pure functions, and `torchmetrics.Metric` classes.

The functions need torch only. The classes (those with capital letters, such as `ECE`) accumulate over batches and
processes; they import torchmetrics, which is slow, so they are looked up on first use.

What `kedge evaluate` reports is the folder: a metric is a file, with a class called like it that says its label, unit
and direction, its value and its interval (`kedge.metrics._base.Metric`).
"""

# ruff: noqa: E402
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge.catalog import names

# Before the functions below: a module is an attribute of its package, and some functions are called like their file.
for _name in names("metrics"):
    import_module(f"kedge.metrics.{_name}")

from kedge.binomial import accuracy_interval, exact_interval
from kedge.confidence import log_odds, log_odds_of_probs, log_odds_of_references
from kedge.metrics._bootstrap import bootstrap_interval, interval, resamples
from kedge.metrics._calibration import bin_sums, binned_error, calibration_error, reliability, resampled_error
from kedge.metrics._classification import accuracy, brier, label_rank, nll
from kedge.metrics._classwise import BrierParts, brier_decomposition, brier_parts, classwise_calibration_error
from kedge.metrics._cross_fitted import CrossFitted, cross_fitted_error, cross_fitted_smooth_error, halves
from kedge.metrics._detection import (
    OperatingPoint,
    aupr_in,
    aupr_out,
    auroc,
    auroc_interval,
    fpr95,
    operating_point,
    roc_curve,
)
from kedge.metrics._ensembles import false_false_true, wrong_in_all
from kedge.metrics._linear import linear_separability
from kedge.metrics._prediction_difference import prediction_difference
from kedge.metrics._selective import (
    aurc,
    aurc_interval,
    excess_aurc,
    joint_risk_coverage,
    risk_coverage,
    selective_accuracy,
    threshold_for_coverage,
    threshold_for_risk,
)
from kedge.metrics._separation import (
    aupr_in_interval,
    aupr_out_interval,
    detection_draws,
    detection_summary,
    fpr95_interval,
    grouped,
)
from kedge.metrics._smooth import resampled_smooth_error, smooth_calibration_error, smooth_error
from kedge.metrics._subgroup_curve import FEWEST_MODELS, SubgroupCurve, subgroup_curve
from kedge.metrics._summary import calibration_summary, column_summary
from kedge.metrics._unlabelled import (
    agreement_of_references,
    average_thresholded_confidence,
    average_thresholded_confidence_interval,
    difference_of_confidences,
    difference_of_confidences_interval,
)
from kedge.metrics.accuracy_by_class import worst_interval
from kedge.metrics.augrc import augrc
from kedge.metrics.class_disparity import class_disparity
from kedge.metrics.confusion import confusion_counts
from kedge.metrics.error_correlation import error_correlation
from kedge.metrics.fragility_index import fragility_index
from kedge.metrics.oracle_at import oracle_at
from kedge.metrics.quadratic_kappa import quadratic_kappa
from kedge.metrics.rank_error import rank_error

if TYPE_CHECKING:
    from kedge.metrics._accumulators import AURC, AUROC, FPR95, NLL, Accuracy, AUPRIn, AUPROut, Brier
    from kedge.metrics._calibration_accumulators import (
        ECE,
        MCE,
        RMSCE,
        BrierDecomposition,
        ClasswiseECE,
        EqualMassECE,
        SmoothECE,
    )

__all__ = [
    "AURC",
    "AUROC",
    "ECE",
    "FEWEST_MODELS",
    "FPR95",
    "MCE",
    "NLL",
    "RMSCE",
    "AUPRIn",
    "AUPROut",
    "Accuracy",
    "Brier",
    "BrierDecomposition",
    "BrierParts",
    "ClasswiseECE",
    "CrossFitted",
    "EqualMassECE",
    "OperatingPoint",
    "SmoothECE",
    "SubgroupCurve",
    "accuracy",
    "accuracy_interval",
    "agreement_of_references",
    "augrc",
    "aupr_in",
    "aupr_in_interval",
    "aupr_out",
    "aupr_out_interval",
    "aurc",
    "aurc_interval",
    "auroc",
    "auroc_interval",
    "average_thresholded_confidence",
    "average_thresholded_confidence_interval",
    "bin_sums",
    "binned_error",
    "bootstrap_interval",
    "brier",
    "brier_decomposition",
    "brier_parts",
    "calibration_error",
    "calibration_summary",
    "class_disparity",
    "classwise_calibration_error",
    "column_summary",
    "confusion_counts",
    "cross_fitted_error",
    "cross_fitted_smooth_error",
    "detection_draws",
    "detection_summary",
    "difference_of_confidences",
    "difference_of_confidences_interval",
    "error_correlation",
    "exact_interval",
    "excess_aurc",
    "false_false_true",
    "fpr95",
    "fpr95_interval",
    "fragility_index",
    "grouped",
    "halves",
    "interval",
    "joint_risk_coverage",
    "label_rank",
    "linear_separability",
    "log_odds",
    "log_odds_of_probs",
    "log_odds_of_references",
    "nll",
    "operating_point",
    "oracle_at",
    "prediction_difference",
    "quadratic_kappa",
    "rank_error",
    "reliability",
    "resampled_error",
    "resampled_smooth_error",
    "resamples",
    "risk_coverage",
    "roc_curve",
    "selective_accuracy",
    "smooth_calibration_error",
    "smooth_error",
    "subgroup_curve",
    "threshold_for_coverage",
    "threshold_for_risk",
    "worst_interval",
    "wrong_in_all",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for home in ("kedge.metrics._accumulators", "kedge.metrics._calibration_accumulators"):
            if hasattr(import_module(home), name):
                return getattr(import_module(home), name)
    raise AttributeError(f"module 'kedge.metrics' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
