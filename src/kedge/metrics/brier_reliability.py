"""The part of the Brier score that is miscalibration."""

from kedge.catalog import Info
from kedge.metrics._families import ClassBins

info = Info(
    "A New Vector Partition of the Probability Score", "Murphy", "Journal of Applied Meteorology", 1973,
    "https://doi.org/10.1175/1520-0450(1973)012%3C0595:ANVPOT%3E2.0.CO;2", "derived",
)  # fmt: skip


class BrierReliability(ClassBins):
    """Squared distance of probability and frequency in bins, summed over classes."""

    label = "Brier score: reliability"
    unit = ""
    better = "lower"
    top = 2.0
    order = 160
