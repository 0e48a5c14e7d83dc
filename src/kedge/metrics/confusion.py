"""Confusion matrix: how often each class was taken for each other one."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric, class_name
from kedge.metrics._results import Heat, Line

info = Info("Confusion matrix", checked="derived")
COUNTED = 100  # up to so many classes all counts are kept
DRAWN = 20  # up to so many they are drawn; of more those that are most confused, and the largest confusions are listed
LARGEST = 20


@dataclass(frozen=True)
class Matrix:
    """The counts, and the largest of those off the diagonal.

    Attributes:
        value: the largest confusion as a share of all images; 0.0: there is none.
        counts: `[C][C]`, rows are true classes and columns answers; None for many classes.
        largest: `label`, `predicted` (class indices), `count` and `of`, the images of the class; the largest first.
        drawn: of more classes than are drawn, `classes` (indices, rising), the counts among them as `counts`, and
            `images` of each of them; None of fewer, or where nothing was confused.
    """

    value: float
    counts: list[list[int]] | None
    largest: list[dict[str, int]]
    drawn: dict[str, Any] | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def confusion_counts(labels: Tensor, predicted: Tensor, classes: int) -> Tensor:
    """`[C, C]` int64: how many images of each class (rows) got each answer (columns), from indices `[N]`."""
    index = labels.long() * classes + predicted.long()
    return torch.bincount(index, minlength=classes * classes).view(classes, classes)


def most_confused(off: Tensor, most: int) -> list[int]:
    """Up to `most` class indices, rising: those of the largest confusions of `off` `[C, C]`, whose diagonal is 0."""
    classes: set[int] = set()
    for i in _largest_first(off.flatten()).tolist():
        pair = {i // len(off), i % len(off)}
        if len(classes | pair) <= most:
            classes |= pair
        if len(classes) == most:
            break
    return sorted(classes)


class Confusion(Metric):
    """Counts of every answer to every class; in the summary the confusion that is most frequent."""

    label = "most frequent confusion, of all images"
    better = "lower"
    judged = False
    order = 80
    summary = ("clean",)
    title = "Confusion matrix"
    probs = True
    words = (
        "Which class is taken for which other one, and how often. "
        f"Of more than {DRAWN} classes the most confused are drawn, and the {LARGEST} most frequent confusions "
        "are listed."
    )
    convention = "rows are the true classes, columns the answers"

    def value(self, sample: Answers) -> float:
        counts = sample.once(_counts)
        return float((counts - counts.diag().diag()).max() / len(sample))

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> Matrix:
        counts = sample.once(_counts)
        classes = len(counts)
        square = counts - counts.diag().diag()
        off = square.flatten()
        order = _largest_first(off)[:LARGEST]
        images = counts.sum(1)
        largest = [
            {"label": i // classes, "predicted": i % classes, "count": int(off[i]), "of": int(images[i // classes])}
            for i in order.tolist()
        ]  # fmt: skip
        drawn = None
        if classes > DRAWN and (chosen := most_confused(square, DRAWN)):
            block = counts[chosen][:, chosen]
            drawn = {"classes": chosen, "counts": block.tolist(), "images": images[chosen].tolist()}
        return Matrix(value, counts.tolist() if classes <= COUNTED else None, largest, drawn)

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        first = [v["largest"][0] if v and v["largest"] else None for v in values]
        notes = [
            _words(pair, class_names) if pair else "none" if v else "" for v, pair in zip(values, first, strict=True)
        ]
        return [Line(self.label, [v and v["value"] for v in values], self.unit, self.better, notes)]

    def details(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        if len(class_names) <= DRAWN:
            return []
        pairs = [{_words(pair, class_names): pair["count"] for pair in (v or {}).get("largest", ())} for v in values]
        every = dict.fromkeys(words for own in pairs for words in own)
        order = sorted(every, key=lambda words: -max(own.get(words, 0) for own in pairs))[:LARGEST]
        return [Line(words, [own.get(words) for own in pairs], "count", None) for words in order]

    def heat(self, value: Any, class_names: Sequence[str]) -> Heat | None:
        note = "Rows: the true class. Columns: the answer. Stronger colour: a larger share of the images of the class."
        corner = "true ↓ answer →"
        if len(class_names) <= DRAWN:
            if not value or value["counts"] is None:
                return None
            every = range(len(class_names))
            return Heat(class_names, class_names, value["counts"], corner, note, good=True, classes=every)
        drawn = value.get("drawn") if value else None
        if not drawn:
            return None
        names = [class_name(class_names, c) for c in drawn["classes"]]
        note += (
            f" Drawn: the {len(names)} classes of the most frequent confusions, of {len(class_names):,}; answers with "
            "other classes are not in these counts."
        )
        return Heat(names, names, drawn["counts"], corner, note, True, drawn["classes"], drawn["images"])

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        yield "", self.name, value and value["value"]
        if value and value["counts"] is not None:
            pairs = [{"label": i, "predicted": j, "count": n} for i, row in enumerate(value["counts"])
                     for j, n in enumerate(row)]  # fmt: skip
        else:
            pairs = value["largest"] if value else []
        for pair in pairs:
            yield _words(pair, class_names), self.name, pair["count"]


def _largest_first(counts: Tensor) -> Tensor:
    """The places of all counts `[M]` above 0, the largest first, of equals the first: few of a million are."""
    places = counts.nonzero().squeeze(1)
    return places[counts[places].argsort(descending=True, stable=True)]


def _counts(sample: Answers) -> Tensor:
    return confusion_counts(sample.labels, sample["predicted"], sample.probs.shape[1])


def _words(pair: dict[str, int], class_names: Sequence[str]) -> str:
    return f"{class_name(class_names, pair['label'])} taken for {class_name(class_names, pair['predicted'])}"
