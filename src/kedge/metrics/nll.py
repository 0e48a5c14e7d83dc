"""Negative log-likelihood of the true class, in nats: rewards probabilities that are right and honest."""

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric

info = Info("Negative log-likelihood", checked="derived")


class NLL(Metric):
    """The mean of -log of the probability of the true class."""

    label = "NLL"
    unit = ""
    better = "lower"
    top = None
    order = 50
    places = ("clean", "shift")
    summary = ("clean", "shift")
    compared = ("clean", "corrupted")
    words = "Rewards probabilities that are right and honest, and punishes sure mistakes harshly. 0 is perfect."

    def value(self, sample: Answers) -> float:
        return float(sample["nll"].double().mean())

    def per_image(self, sample: Answers) -> Tensor:
        return sample["nll"].double()
