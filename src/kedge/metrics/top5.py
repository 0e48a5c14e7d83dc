"""Top-5 accuracy: the share of images whose true class is among the five most probable."""

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Bounds, Metric

info = Info("Top-5 accuracy", checked="derived")


class Top5(Metric):
    """The share of images whose true class is among the first five; of more than five classes."""

    label = "top-5 accuracy"
    order = 20
    summary = ("clean",)
    probs = True
    classes = 20  # from here on it says something

    def applies(self, sample: Answers) -> bool:
        return sample.probs.shape[1] > 5

    def value(self, sample: Answers) -> float:
        return float((sample["rank"] < 5).double().mean())

    def exact(self, sample: Answers) -> Bounds:
        return accuracy_interval(int((sample["rank"] < 5).sum()), len(sample))
