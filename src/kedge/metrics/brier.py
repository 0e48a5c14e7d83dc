"""Brier score: the squared distance between the probabilities and the truth."""

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric

info = Info(
    "Verification of Forecasts Expressed in Terms of Probability", "Brier", "Monthly Weather Review", 1950,
    "https://doi.org/10.1175/1520-0493(1950)078%3C0001:VOFEIT%3E2.0.CO;2", "derived",
)  # fmt: skip


class Brier(Metric):
    """The sum over classes of squared differences, 0 to 2."""

    label = "Brier score"
    unit = ""
    better = "lower"
    top = 2.0
    order = 60
    places = ("clean", "shift")
    summary = ("clean", "shift")
    words = "Rewards probabilities that are right and honest, and punishes sure mistakes. 0 is perfect, 2 the worst."
    convention = "sum over classes of squared differences, 0 to 2"

    def value(self, sample: Answers) -> float:
        return float(sample["brier"].double().mean())

    def per_image(self, sample: Answers) -> Tensor:
        return sample["brier"].double()
