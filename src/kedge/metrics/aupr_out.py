"""Average precision with out-of-distribution as the positive class."""

from kedge.catalog import Info
from kedge.metrics import _detection
from kedge.metrics._base import Separation
from kedge.metrics._separation import Resampled

info = Info(
    "The Relationship Between Precision-Recall and ROC Curves", "Davis & Goadrich", "ICML", 2006,
    "https://doi.org/10.1145/1143844.1143874", "code",
)  # fmt: skip


class AUPROut(Resampled):
    """Area under precision against recall; chance is the share of unfamiliar images."""

    label = "AUPR-out"
    better = "higher"
    order = 330

    def value(self, sample: Separation) -> float:
        return float(_detection.aupr_out(sample.inside, sample.outside))
