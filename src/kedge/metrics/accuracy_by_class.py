"""Accuracy by class, and of the worst class: what the mean over all images hides."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric, class_name
from kedge.metrics._results import Estimate, Line

info = Info("Accuracy by class", checked="derived")
MANY = 30  # of more classes the table has the worst alone
LEVEL = 0.95


@dataclass(frozen=True)
class ByClass(Estimate):
    """The accuracy of the worst class with its interval, and of every class; None for a class without images.

    Attributes:
        worst: the class index of the lowest accuracy, the first of equals.
        images: `[C]`, how many there are of each class.
        accuracy, lows, highs: `[C]` of each class, with Wilson's 95 % interval.
    """

    worst: int = 0
    images: Sequence[int] = ()
    accuracy: Sequence[float | None] = ()
    lows: Sequence[float | None] = ()
    highs: Sequence[float | None] = ()


def worst_interval(right: Sequence[int], images: Sequence[int], level: float = LEVEL) -> tuple[float, float]:
    """Interval of the lowest of the true accuracies of classes, of which `right` of `images` were right, in [0, 1].

    Every class gets Wilson's interval at 1 - (1 - level) / C, so that all of them hold together with a chance of
    `level` (Bonferroni): the lowest true accuracy lies between the lowest of their ends. That of the class that looks
    worst alone would lie too low, for it was chosen by its number.
    """
    each = 1 - (1 - level) / len(images)
    ends = [accuracy_interval(hits, total, each) for hits, total in zip(right, images, strict=True)]
    return min(low for low, _ in ends), min(high for _, high in ends)


def lowest_resampled(place: Tensor, count: int, correct: Tensor) -> Callable[[Tensor], Tensor]:
    """From weights `[R, N]`, how often images are drawn, to the lowest share of right answers `[R]` of `count` groups.

    `place` `[N]` is the group of each image, -1 for none, and `correct` `[N]` bool. Groups of which a resample has no
    image are left out of it.
    """
    there = place >= 0
    place, right = place[there], correct[there]

    def lowest(weights: Tensor) -> Tensor:
        drawn = weights[:, there]
        images = drawn.new_zeros(len(drawn), count).index_add_(1, place, drawn)
        hits = drawn.new_zeros(len(drawn), count).index_add_(1, place, drawn * right)
        return torch.where(images > 0, hits / images, torch.inf).amin(dim=1)

    return lowest


def in_words(worst: str, shares: Sequence[float], plural: str, singular: str = "") -> str:
    """The worst of several with these accuracies by its name, with how many are as bad; where all are, none by name."""
    as_bad = sum(share == min(shares) for share in shares)
    if as_bad == len(shares) > 1:
        return f"none, all {as_bad} {plural} are alike"
    return singular + worst + (f" and {as_bad - 1} more" if as_bad > 1 else "")


def worst_class(value: Mapping[str, Any], class_names: Sequence[str], singular: str = "") -> str:
    """`in_words` of the worst class of a stored `ByClass`."""
    shares = [share for share in value["accuracy"] if share is not None]
    return in_words(class_name(class_names, value["worst"]), shares, "classes", singular)


class AccuracyByClass(Metric):
    """The share of right answers among the images of each class; in the summary that of the worst class."""

    label = "accuracy of the worst class"
    order = 70
    summary = ("clean",)
    title = "Accuracy by class"
    probs = True
    compared = ("clean",)
    words = (
        "Of the images of each class the share that gets the right answer, and the class where that is lowest. Its "
        f"interval counts that it was picked as the lowest of all. Of more than {MANY} classes the {MANY} lowest are "
        "listed here, and all in results.csv."
    )
    convention = (
        "Wilson's interval for each class; of the worst class the lowest ends of intervals that hold for all classes "
        "together (Bonferroni)"
    )

    def value(self, sample: Answers) -> float:
        right, images = sample.once(_counts)
        return float((right / images)[images > 0].min())

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        return lowest_resampled(sample.labels, sample.probs.shape[1], sample.correct)

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> ByClass:
        right, images = (counts.int().tolist() for counts in sample.once(_counts))
        shares = [hits / total if total else None for hits, total in zip(right, images, strict=True)]
        ends = [accuracy_interval(h, n) if n else (None, None) for h, n in zip(right, images, strict=True)]
        there = [c for c, total in enumerate(images) if total]
        low, high = worst_interval([right[c] for c in there], [images[c] for c in there])
        worst = min(there, key=lambda c: (shares[c], c))
        return ByClass(value, low, high, worst, images, shares, *map(list, zip(*ends, strict=True)))

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        notes = [worst_class(v, class_names, "class ") if v else "" for v in values]
        return [Line(self.label, values, self.unit, self.better, notes)]

    def details(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        known = [v for v in values if v]
        if not known:
            return []
        classes = list(range(len(known[0]["accuracy"])))
        lowest = [min((v["accuracy"][c] for v in known if v["accuracy"][c] is not None), default=math.inf)
                  for c in classes]  # fmt: skip
        if len(classes) > MANY:
            classes = sorted(classes, key=lowest.__getitem__)[:MANY]
        return [
            Line(
                class_name(class_names, c),
                [_of_class(v, c) for v in values],
                self.unit,
                self.better,
                [f"of {v['images'][c]:,}" if v and v["images"][c] else "" for v in values],
            )
            for c in classes
        ]

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        if not value or len([n for n in value["images"] if n]) < 2:
            return ""
        return (
            f"Its worst class is {worst_class(value, class_names)}: right on {100 * value['value']:.1f} % of "
            f"{value['images'][value['worst']]:,} images."
        )

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        yield "", self.name, value
        for c in range(len(value["accuracy"]) if value else 0):
            yield class_name(class_names, c), self.name, _of_class(value, c)


def _counts(sample: Answers) -> tuple[Tensor, Tensor]:
    """How many images of each class were answered rightly, and how many there are, `[C]` float64."""
    classes = sample.probs.shape[1]
    images = torch.bincount(sample.labels, minlength=classes)
    return torch.bincount(sample.labels[sample.correct], minlength=classes).double(), images.double()


def _of_class(value: Any, c: int) -> dict[str, Any] | None:
    if not value or value["accuracy"][c] is None:
        return None
    return {"value": value["accuracy"][c], "low": value["lows"][c], "high": value["highs"][c]}
