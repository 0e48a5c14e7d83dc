"""Accuracy of classes with many, a medium number of and few training images: where a long tail costs."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric
from kedge.metrics._results import Estimate, Line

info = Info(
    "Large-Scale Long-Tailed Recognition in an Open World", "Liu et al.", "CVPR", 2019,
    "https://arxiv.org/abs/1904.05160", "abstract",
)  # fmt: skip
MANY, FEW = 100, 20  # training images: many above the first, few below the second, as usual since Liu et al.
GROUPS = {"many": f"more than {MANY}", "medium": f"{FEW} to {MANY}", "few": f"fewer than {FEW}"}


@dataclass(frozen=True)
class ByFrequency(Estimate):
    """The mean accuracy of the rarest group of classes with its interval, and that of every group.

    Attributes:
        group: which that is.
        groups: of each with classes in it, name to value, low, high and the number of classes.
    """

    group: str = ""
    groups: dict[str, dict[str, Any]] | None = None


class AccuracyByFrequency(Metric):
    """The mean of the accuracies of the classes with more than 100, 20 to 100, and fewer than 20 training images.

    For models whose training images are on record, where their classes fall into two of these groups or more.
    """

    label = "accuracy of rare classes"
    order = 72
    summary = ("clean",)
    probs = True
    words = (
        f"The mean of the accuracies of the classes of which training had many ({GROUPS['many']}), a medium number of "
        f"({GROUPS['medium']}) and few ({GROUPS['few']}) images; every class of a group counts the same."
    )
    convention = (
        "groups by training images as of Liu et al., CVPR 2019; interval: Wilson's of every class, added up in squares "
        "(MOVER, Zou and Donner 2008)"
    )

    def applies(self, sample: Answers) -> bool:
        counts = sample.settings.get("train_counts")
        return counts is not None and len(sample.once(_groups)) > 1

    def value(self, sample: Answers) -> float:
        return float(list(sample.once(_groups).values())[-1]["value"])

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> ByFrequency:
        groups = sample.once(_groups)
        rarest = list(groups)[-1]
        return ByFrequency(value, groups[rarest]["low"], groups[rarest]["high"], rarest, groups)

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        there = [group for group in GROUPS if any(v and group in v["groups"] for v in values)]
        return [
            Line(
                f"accuracy of classes with {GROUPS[group]} training images",
                [v["groups"].get(group) if v else None for v in values],
                self.unit,
                self.better,
                [_classes(v["groups"][group]["classes"]) if v and group in v["groups"] else "" for v in values],
            )
            for group in there
        ]

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        if not value:
            return ""
        group = value["groups"][value["group"]]
        return (
            f"On its {_classes(group['classes'])} with {GROUPS[value['group']]} training images it is right on "
            f"{100 * value['value']:.1f} % of images, the mean over classes."
        )

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        yield "", self.name, value
        for group, own in (value["groups"] if value else {}).items():
            yield f"classes with {group} training images", self.name, own


def _classes(count: int) -> str:
    return f"{count} {'class' if count == 1 else 'classes'}"


def _groups(sample: Answers) -> dict[str, dict[str, Any]]:
    """Of each group with classes that have images: mean accuracy, its interval, number of classes; rarest last."""
    counts = torch.as_tensor(sample.settings["train_counts"])
    images = torch.bincount(sample.labels, minlength=len(counts))
    right = torch.bincount(sample.labels[sample.correct], minlength=len(counts))
    inside = {"many": counts > MANY, "medium": (counts >= FEW) & (counts <= MANY), "few": counts < FEW}
    groups = {}
    for name, own in inside.items():
        classes = (own & (images > 0)).nonzero().flatten().tolist()
        if not classes:
            continue
        values = [int(right[c]) / int(images[c]) for c in classes]
        ends = [accuracy_interval(int(right[c]), int(images[c])) for c in classes]
        mean, size = sum(values) / len(classes), len(classes)
        down = math.hypot(*(v - low for v, (low, _) in zip(values, ends, strict=True))) / size
        up = math.hypot(*(high - v for v, (_, high) in zip(values, ends, strict=True))) / size
        groups[name] = {"value": mean, "low": max(0.0, mean - down), "high": min(1.0, mean + up), "classes": size}
    return groups
