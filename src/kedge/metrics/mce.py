"""Largest calibration error of a bin."""

from kedge.catalog import Info
from kedge.metrics._families import Binned

info = Info(
    "Obtaining Well Calibrated Probabilities Using Bayesian Binning", "Naeini et al.", "AAAI", 2015,
    "https://ojs.aaai.org/index.php/AAAI/article/view/9602", "derived",
)  # fmt: skip


class MCE(Binned):
    """The largest gap of a bin that holds images; one image can decide it."""

    label = "largest error of a bin (MCE)"
    order = 150
    norm = "max"
