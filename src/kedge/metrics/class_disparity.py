"""Class disparity: how much more often the best class is right than the worst."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import NO_BOUNDS, Answers, Bounds, Metric, class_name
from kedge.metrics._results import Estimate, Line

info = Info(
    "Understanding the Impact of Adversarial Robustness on Accuracy Disparity", "Hu et al.", "ICML", 2023,
    "https://arxiv.org/abs/2211.15762", "derived",
)  # fmt: skip


@dataclass(frozen=True)
class Disparity(Estimate):
    """The accuracy of the best class less that of the worst; `best` and `worst` are class indices, the first of equals.

    None of these where fewer than two classes have images.
    """

    best: int | None = None
    worst: int | None = None


def class_disparity(correct: Tensor, labels: Tensor, level: float = 0.95) -> Disparity:
    """The accuracy of the best class less that of the worst, in [0, 1], with its interval; 0 is equal for all.

    Every class gets Wilson's interval at 1 - (1 - level) / C, so that all of them hold together with a chance of
    `level` (Bonferroni); the gap of the true accuracies then lies between what the ends of the intervals allow at least
    and at most. Of equally good classes one looks best and one worst by chance alone: the gap is above 0, and its lower
    end is 0.

    Args:
        correct: `[N]` bool or 0/1, which answers are right.
        labels: class indices `[N]`; classes without images are left out.
        level: of the interval.

    Returns:
        The estimate; all None with fewer than two classes that have images.

    Raises:
        ValueError: for no images, and for as many labels as there are not answers.
    """
    if correct.ndim != 1 or correct.shape != labels.shape or len(labels) == 0:
        raise ValueError(
            f"as many answers as labels are needed, [N] each, got {[*correct.shape]} and {[*labels.shape]}"
        )
    labels = labels.long().cpu()
    images = torch.bincount(labels)
    right = torch.bincount(labels, weights=correct.double().cpu(), minlength=len(images)).long()
    classes = images.nonzero()[:, 0].tolist()
    if len(classes) < 2:
        return Disparity(None)
    shares = {c: int(right[c]) / int(images[c]) for c in classes}
    best, worst = max(classes, key=lambda c: (shares[c], -c)), min(classes, key=lambda c: (shares[c], c))
    each = 1 - (1 - level) / len(classes)
    ends = [accuracy_interval(int(right[c]), int(images[c]), each) for c in classes]
    lows, highs = zip(*ends, strict=True)
    low = max(0.0, max(lows) - min(highs))
    return Disparity(shares[best] - shares[worst], low, max(highs) - min(lows), best, worst)


class ClassDisparity(Metric):
    """The accuracy of the best class less that of the worst, clean, corrupted and under attack."""

    label = "best class above worst"
    better = "lower"
    order = 75
    places = ("clean", "shift")
    summary = ("clean", "shift")
    classes = 2
    words = (
        "The accuracy of the best class less that of the worst: what the mean over all images hides, and training "
        "against attacks can widen. Its interval counts that the two were picked; of equally good classes it reaches "
        "down to 0."
    )
    convention = (
        "accuracy of the best class less that of the worst; interval: what intervals that hold for all classes "
        "together allow (Bonferroni, Wilson); of a mean over corruptions the mean of the ends"
    )

    def applies(self, sample: Answers) -> bool:
        return sample.has_labels and len(sample.labels.unique()) > 1

    def value(self, sample: Answers) -> float:
        value = sample.once(_of).value
        assert value is not None
        return value

    def exact(self, sample: Answers) -> Bounds:
        own = sample.once(_of)
        return own.low, own.high

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> Disparity:
        return sample.once(_of)

    def mean(self, samples: Sequence[Answers], value: float, center: float, draws: Tensor | None) -> Estimate:
        ends = [self.exact(sample) for sample in samples]
        low, high = (sum(own[end] or 0.0 for own in ends) / len(ends) for end in (0, 1)) if ends else NO_BOUNDS
        return Estimate(value, low, high)

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        pairs = [(v["best"], v["worst"]) if v and v.get("best") is not None else None for v in values]
        notes = [f"{class_name(class_names, p[0])} above {class_name(class_names, p[1])}" if p else "" for p in pairs]
        notes = ["all classes are alike" if p and v["value"] == 0 else n
                 for p, v, n in zip(pairs, values, notes, strict=True)]  # fmt: skip
        return [Line(self.label, values, self.unit, self.better, notes)]


def _of(sample: Answers) -> Disparity:
    return class_disparity(sample.correct, sample.labels)
