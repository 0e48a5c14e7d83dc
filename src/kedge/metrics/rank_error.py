"""Mean absolute rank error: how many places of ordered classes an answer is off."""

from typing import ClassVar

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric
from kedge.metrics._ordered import applies_to, check_ranks

info = Info("Mean absolute error of the rank", checked="derived")


def rank_error(predicted: Tensor, labels: Tensor) -> Tensor:
    """Mean |p - y|, a scalar from 0 (all right) to K - 1; lower is better.

    Args:
        predicted, labels: ranks `[N]`, class indices of classes in their order, 0 the lowest.

    Raises:
        ValueError: for probabilities or logits, other shapes, and no images.
    """
    check_ranks(predicted, labels)
    return (predicted - labels).abs().double().mean()


class RankError(Metric):
    """The mean number of places that answers are off; for models whose recipe says that their classes are ordered."""

    label = "mean rank error"
    unit = ""
    better = "lower"
    top: ClassVar[float | None] = None
    order = 76
    summary = ("clean",)
    probs = True
    words = "The classes are ordered: how many places the answer is off, the mean over images; 0 is all right."
    convention = (
        "mean absolute difference of the ranks of the most probable class and of the label; interval: bootstrap"
    )

    def applies(self, sample: Answers) -> bool:
        return applies_to(sample)

    def value(self, sample: Answers) -> float:
        return float(rank_error(sample["predicted"], sample.labels))

    def per_image(self, sample: Answers) -> Tensor:
        return (sample["predicted"] - sample.labels).abs().double()
