"""Average precision with out-of-distribution as the positive class."""

from kedge.metrics._detection import aupr_out
from kedge.metrics._separation import Resampled
from kedge.metrics.aupr_in import info as info


class AUPROut(Resampled):
    """Area under precision against recall; chance is the share of unfamiliar images."""

    label = "AUPR-out"
    better = "higher"
    order = 330
    positive = "out"
    measure = staticmethod(aupr_out)
