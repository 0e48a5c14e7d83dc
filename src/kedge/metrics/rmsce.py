"""Root mean square calibration error over bins of equal width."""

from kedge.catalog import Info
from kedge.metrics._families import Binned

info = Info("Root mean square calibration error", checked="derived")


class RMSCE(Binned):
    """The root of the mean square of the gaps."""

    label = "root mean square error"
    order = 140
    norm = "l2"
