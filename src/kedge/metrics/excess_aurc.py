"""How far AURC is above that of the best order of the same answers (E-AURC)."""

from kedge.catalog import Info
from kedge.metrics import _selective
from kedge.metrics._base import Answers, Metric

info = Info(
    "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", "Geifman et al.", "ICLR", 2019,
    "https://arxiv.org/abs/1805.08206", "paper",
)  # fmt: skip


class ExcessAURC(Metric):
    """AURC less that of all right answers before all wrong ones; 0 is perfect, whatever the accuracy."""

    label = "above the best order (E-AURC)"
    unit = "%%"
    better = "lower"
    part = "selective"
    order = 220

    def value(self, sample: Answers) -> float:
        return float(_selective.excess_aurc(sample["log_odds"], sample.correct))
