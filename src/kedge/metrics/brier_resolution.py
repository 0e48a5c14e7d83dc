"""The part of the Brier score that is telling images apart."""

from kedge.metrics._families import ClassBins
from kedge.metrics.brier_reliability import info as info


class BrierResolution(ClassBins):
    """How far the frequencies in bins are from the overall ones, summed over classes."""

    label = "Brier score: resolution"
    unit = ""
    better = "higher"
    top = 1.0
    order = 170
    judged = True
