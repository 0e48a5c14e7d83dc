"""Accuracy: the share of images that get the right answer."""

from typing import ClassVar

from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Bounds, Metric

info = Info("Accuracy", checked="derived")


class Accuracy(Metric):
    """The share of right answers; Wilson's interval (JASA 1927) of one set, the bootstrap of a mean over sets."""

    label = "accuracy"
    order = 10
    places = ("clean", "shift")
    summary = ("clean", "shift", "sets")
    compared = ("clean", "corrupted")
    claims = "Accuracy"
    of_right_answers = True
    phrases: ClassVar = {"clean": "is right on {} % of clean images", "shift": "is right on {} %"}
    words = "The share of images that get the right answer."
    convention = "share of correct answers; interval: Wilson. Means over corruptions: bootstrap over images"

    def value(self, sample: Answers) -> float:
        return float(sample.correct.double().mean())

    def per_image(self, sample: Answers) -> Tensor:
        return sample.correct.double()

    def exact(self, sample: Answers) -> Bounds:
        return accuracy_interval(int(sample.correct.sum()), len(sample))
