"""The part of the Brier score that is telling images apart."""

from kedge.catalog import Info
from kedge.metrics._class_bins import ClassBins

info = Info(
    "A New Vector Partition of the Probability Score", "Murphy", "Journal of Applied Meteorology", 1973,
    "https://doi.org/10.1175/1520-0450(1973)012%3C0595:ANVPOT%3E2.0.CO;2", "derived",
)  # fmt: skip


class BrierResolution(ClassBins):
    """How far the frequencies in bins are from the overall ones, summed over classes."""

    label = "Brier score: resolution"
    unit = ""
    better = "higher"
    top = 1.0
    order = 170
    judged = True
