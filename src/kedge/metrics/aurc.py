"""Area under the risk-coverage curve: the mean share of wrong answers while more and more images are answered."""

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics import _selective
from kedge.metrics._base import Answers
from kedge.metrics._families import Ranked

info = Info(
    "Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers", "Geifman et al.", "ICLR", 2019,
    "https://arxiv.org/abs/1805.08206", "paper",
)  # fmt: skip


class AURC(Ranked):
    """The mean of the risks at all coverages; 0 is perfect, a random order has the error rate."""

    label = "risk over all coverages (AURC)"
    order = 210
    words = (
        "Let the model answer only its most confident images, from a few to all: the mean share of wrong answers on "
        "the way. 0 is perfect. With an out-of-distribution set among the questions, every answer to one of its "
        "images is wrong."
    )
    convention = "area under the curve of risk (share of wrong answers) against coverage (share of images answered)"

    def value(self, sample: Answers) -> float:
        return float(_selective.aurc(sample["log_odds"], sample.correct))

    def area(self, answered: Tensor, wrong: Tensor) -> Tensor:
        return _selective.area(answered, wrong, _selective.harmonic(int(answered[0, -1])))
