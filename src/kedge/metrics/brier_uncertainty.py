"""The part of the Brier score that the labels alone decide."""

from kedge.metrics._families import ClassBins
from kedge.metrics.brier_reliability import info as info


class BrierUncertainty(ClassBins):
    """Σ over classes of share × (1 − share)."""

    label = "Brier score: uncertainty"
    unit = ""
    better = None
    top = 1.0
    order = 180
