"""The suite: one protocol over clean, shifted, out-of-distribution and attacked images, for any classifier."""

from kedge.evaluation.attack_suite import Attacks
from kedge.evaluation.attacked import (
    accuracy_against_epsilon,
    attack_batch,
    attack_summary,
    attacked,
    epsilon_curve,
    predictor,
)
from kedge.evaluation.drift import measure_drift
from kedge.evaluation.equalise import Step, common_step, difference, equalise
from kedge.evaluation.features import centred_alignment, effective_rank, feature_report
from kedge.evaluation.first_order import first_order_curve, first_order_radius
from kedge.evaluation.parts import accuracy_by_part
from kedge.evaluation.sanity import sanity
from kedge.evaluation.subgroups import accuracy_on_the_curve
from kedge.evaluation.suite import FORMAT_VERSION, evaluate
from kedge.evaluation.unlabelled import estimate_accuracy, with_estimates

__all__ = [
    "FORMAT_VERSION",
    "Attacks",
    "Step",
    "accuracy_against_epsilon",
    "accuracy_by_part",
    "accuracy_on_the_curve",
    "attack_batch",
    "attack_summary",
    "attacked",
    "centred_alignment",
    "common_step",
    "difference",
    "effective_rank",
    "epsilon_curve",
    "equalise",
    "estimate_accuracy",
    "evaluate",
    "feature_report",
    "first_order_curve",
    "first_order_radius",
    "measure_drift",
    "predictor",
    "sanity",
    "with_estimates",
]
