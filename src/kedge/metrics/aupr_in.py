"""Average precision with in-distribution as the positive class."""

from kedge.catalog import Info
from kedge.metrics._detection import aupr_in
from kedge.metrics._separation import Resampled

info = Info(
    "The Relationship Between Precision-Recall and ROC Curves", "Davis & Goadrich", "ICML", 2006,
    "https://doi.org/10.1145/1143844.1143874", "code",
)  # fmt: skip


class AUPRIn(Resampled):
    """Area under precision against recall; chance is the share of familiar images."""

    label = "AUPR-in"
    better = "higher"
    order = 320
    positive = "in"
    measure = staticmethod(aupr_in)
