"""The part of the Brier score that the labels alone decide."""

from kedge.catalog import Info
from kedge.metrics._class_bins import ClassBins

info = Info(
    "A New Vector Partition of the Probability Score", "Murphy", "Journal of Applied Meteorology", 1973,
    "https://doi.org/10.1175/1520-0450(1973)012%3C0595:ANVPOT%3E2.0.CO;2", "derived",
)  # fmt: skip


class BrierUncertainty(ClassBins):
    """Σ over classes of share × (1 − share)."""

    label = "Brier score: uncertainty"
    unit = ""
    better = None
    top = 1.0
    order = 180
