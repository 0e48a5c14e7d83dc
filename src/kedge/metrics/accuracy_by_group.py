"""Accuracy by group, and of the worst: whether a model is right at every place, with every camera, of every person."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric
from kedge.metrics._results import Estimate, Line
from kedge.metrics.accuracy_by_class import MANY, in_words, lowest_resampled, worst_interval

info = Info(
    "Distributionally Robust Neural Networks for Group Shifts", "Sagawa et al.", "ICLR", 2020,
    "https://arxiv.org/abs/1911.08731", "derived",
)  # fmt: skip
FEW = 10  # images: a group of fewer is listed, and is not taken for the worst


@dataclass(frozen=True)
class ByGroup(Estimate):
    """The accuracy of the worst group with its interval, and of every group.

    Attributes:
        by: how images are divided.
        worst: the name of the worst group among those of `FEW` images or more, the first of equals.
        groups: name to value, low, high (Wilson), `images` and whether these are `few`.
        ungrouped: how many images are in no group.
    """

    by: str = ""
    worst: str = ""
    groups: dict[str, dict[str, Any]] | None = None
    ungrouped: int = 0


class AccuracyByGroup(Metric):
    """The share of right answers among the images of each group; in the summary that of the worst group.

    For images whose groups are named (`groups_of`). A group of fewer than 10 images is listed and marked, and is not
    taken for the worst: one wrong answer would make it so.
    """

    label = "accuracy of the worst group"
    order = 71
    summary = ("clean",)
    title = "Accuracy by group"
    compared = ("clean",)
    words = (
        "Of the images of each group (a camera, a place, a person) the share that gets the right answer, and the group "
        "where that is lowest. Its interval counts that it was picked as the lowest of all. A group of fewer than "
        f"{FEW} images is listed and marked, and is not taken for the worst. Of more than {MANY} groups the {MANY} "
        "lowest are listed here, and all in results.csv."
    )
    convention = (
        f"Wilson's interval for each group; of the worst group of {FEW} images or more the lowest ends of intervals "
        "that hold for all those groups together (Bonferroni)"
    )

    def applies(self, sample: Answers) -> bool:
        return sample.settings.get("groups") is not None

    def value(self, sample: Answers) -> float:
        return min(own["value"] for own in sample.once(_groups).values() if not own["few"])

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        of = sample.settings["groups"]
        few = torch.tensor([count < FEW for count in of.counts()])
        place = torch.where((of.index >= 0) & few[of.index], -1, of.index)  # that of -1 is the last one's, and unused
        return lowest_resampled(place, len(few), sample.correct)

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> ByGroup:
        groups, of = sample.once(_groups), sample.settings["groups"]
        counted = {name: own for name, own in groups.items() if not own["few"]}
        images = [own["images"] for own in counted.values()]
        right = [round(own["value"] * own["images"]) for own in counted.values()]
        low, high = worst_interval(right, images)
        worst = min(counted, key=lambda name: counted[name]["value"])
        return ByGroup(value, low, high, of.by, worst, groups, int((of.index < 0).sum()))

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        notes = [_worst(v, "group ") if v else "" for v in values]
        return [Line(self.label, values, self.unit, self.better, notes)]

    def details(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        known = [v["groups"] for v in values if v]
        if not known:
            return []
        names = list(known[0])
        if len(names) > MANY:
            names = sorted(names, key=lambda n: (known[0][n]["few"], min(g[n]["value"] for g in known)))[:MANY]
        return [
            Line(
                f"{name} ({_images(known[0][name])})",
                [v["groups"][name] if v else None for v in values],
                self.unit,
                self.better,
            )
            for name in names
        ]

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        if not value:
            return ""
        few = sum(own["few"] for own in value["groups"].values())
        aside = [f"{few} of fewer than {FEW} images left aside"] if few else []
        aside += [f"{value['ungrouped']:,} images in no group"] if value["ungrouped"] else []
        return (
            f"Its worst group by {value['by']} is {_worst(value)}: right on {100 * value['value']:.1f} % of "
            f"{value['groups'][value['worst']]['images']:,} images{_beside(aside)}."
        )

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        yield "", self.name, value
        for name, own in (value["groups"] if value else {}).items():
            yield name, self.name, own


def _worst(value: Mapping[str, Any], singular: str = "") -> str:
    counted = [own["value"] for own in value["groups"].values() if not own["few"]]
    return in_words(value["worst"], counted, "groups", singular)


def check_groups(groups: Any) -> None:
    """Raise ValueError unless two groups have enough images to be compared."""
    counts = groups.counts()
    if sum(count >= FEW for count in counts) < 2:
        largest = sorted(counts, reverse=True)[:2]
        raise ValueError(
            f"groups by {groups.by}: it takes two groups of {FEW} images or more to name a worst one, and of "
            f"{sum(count > 0 for count in counts)} groups of {len(groups):,} images the largest "
            f"{'have' if len(largest) > 1 else 'has'} {' and '.join(map(str, largest))}"
        )


def _beside(words: Sequence[str]) -> str:
    return f" ({', '.join(words)})" if words else ""


def _images(own: dict[str, Any]) -> str:
    count = own["images"]
    return f"{count:,} image{'' if count == 1 else 's'}{', too few' if own['few'] else ''}"


def _groups(sample: Answers) -> dict[str, dict[str, Any]]:
    """Of each group with images: its accuracy with Wilson's interval, how many images, and whether they are few."""
    of = sample.settings["groups"]
    counts = of.counts()
    right = torch.bincount(of.index[(of.index >= 0) & sample.correct], minlength=len(counts)).tolist()
    groups = {}
    for name, hits, total in zip(of.names, right, counts, strict=True):
        if total:
            low, high = accuracy_interval(hits, total)
            groups[name] = {"value": hits / total, "low": low, "high": high, "images": total, "few": total < FEW}
    return groups
