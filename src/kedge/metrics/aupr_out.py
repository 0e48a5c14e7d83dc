"""Average precision with out-of-distribution as the positive class."""

from kedge.metrics import _detection
from kedge.metrics._base import Separation
from kedge.metrics._separation import Resampled
from kedge.metrics.aupr_in import info as info


class AUPROut(Resampled):
    """Area under precision against recall; chance is the share of unfamiliar images."""

    label = "AUPR-out"
    better = "higher"
    order = 330

    def value(self, sample: Separation) -> float:
        return float(_detection.aupr_out(sample.inside, sample.outside))
