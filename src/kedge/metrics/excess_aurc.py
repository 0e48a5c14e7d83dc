"""How far AURC is above that of the best order of the same answers (E-AURC)."""

from kedge.metrics import _selective
from kedge.metrics._base import Answers, Metric
from kedge.metrics.aurc import info as info


class ExcessAURC(Metric):
    """AURC less that of all right answers before all wrong ones; 0 is perfect, whatever the accuracy."""

    label = "above the best order (E-AURC)"
    unit = "%%"
    better = "lower"
    part = "selective"
    order = 220

    def value(self, sample: Answers) -> float:
        return float(_selective.excess_aurc(sample["log_odds"], sample.correct))
