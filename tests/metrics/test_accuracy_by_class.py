"""Accuracy by class against counting, and the interval of the worst class against simulation."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import recall_score

from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.metrics.accuracy_by_class import worst_interval

BY_CLASS = metric("accuracy_by_class")


def answers(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> Answers:
    columns = {"rank": (labels != predicted).long(), "predicted": predicted}
    return Answers(columns, torch.full((len(labels), classes), 1 / classes), labels, n=0)


def test_is_the_recall_of_each_class():
    rng = np.random.default_rng(0)
    labels, predicted = (torch.tensor(rng.integers(0, 5, 200)) for _ in range(2))
    result = numbers([answers(labels, predicted, 6)], [BY_CLASS]).results()["accuracy_by_class"]
    expected = recall_score(labels, predicted, labels=range(5), average=None)
    assert result["accuracy"][:5] == pytest.approx(list(expected))
    assert (result["value"], result["worst"]) == (pytest.approx(expected.min()), int(expected.argmin()))
    assert result["images"] == torch.bincount(labels, minlength=6).tolist()
    # A class without images has no accuracy, and is not the worst one.
    assert (result["accuracy"][5], result["lows"][5], result["highs"][5]) == (None, None, None)
    for c in range(5):
        hits, total = round(expected[c] * result["images"][c]), result["images"][c]
        wilson = binomtest(hits, total).proportion_ci(method="wilson")
        assert (result["lows"][c], result["highs"][c]) == (pytest.approx(wilson.low), pytest.approx(wilson.high))


def test_the_interval_of_the_worst_class_knows_that_it_was_picked():
    rng = np.random.default_rng(1)
    held = alone = 0
    for _ in range(400):
        right = rng.binomial(40, 0.8, size=20)  # all classes are equally good: the worst one looks worse than it is
        low, high = worst_interval(right.tolist(), [40] * 20)
        held += low <= 0.8 <= high
        single = binomtest(int(right.min()), 40).proportion_ci(method="wilson")
        alone += single.low <= 0.8 <= single.high
        assert low <= right.min() / 40 <= high
    assert held >= 380 > alone  # 95 % of 400


def test_what_is_said_of_it():
    labels, predicted = torch.tensor([0, 0, 1, 1, 2]), torch.tensor([0, 0, 1, 0, 2])
    result = numbers([answers(labels, predicted, 3)], [BY_CLASS]).results()["accuracy_by_class"]
    names = ["cat", "dog", "cow"]
    (line,) = BY_CLASS.lines([result, None], names)
    assert list(line.notes) == ["class dog", ""]
    assert BY_CLASS.sentence(result, names) == "Its worst class is dog: right on 50.0 % of 2 images."
    assert [line.label for line in BY_CLASS.details([result], names)] == names
    assert [(where, value and value["value"]) for where, _, value in BY_CLASS.numbers(result, names)][1:] == [
        ("cat", 1.0), ("dog", 0.5), ("cow", 1.0),
    ]  # fmt: skip


def test_of_many_classes_the_table_has_the_worst():
    labels = torch.arange(100).repeat(2)
    predicted = torch.where(labels % 10 == 3, 0, labels)
    result = numbers([answers(labels, predicted, 100)], [BY_CLASS]).results()["accuracy_by_class"]
    shown = BY_CLASS.details([result], [str(c) for c in range(100)])
    assert len(shown) == 30
    assert [line.label for line in shown[:10]] == [str(c) for c in range(3, 100, 10)]


def test_of_classes_that_are_equal_none_is_called_the_worst():
    names = ["cat", "dog", "cow"]
    labels = torch.tensor([0, 0, 1, 1, 2, 2])
    for predicted, note, sentence in (
        ([0, 0, 1, 1, 2, 2], "none, all 3 classes are alike", "none, all 3 classes are alike: right on 100.0 %"),
        ([0, 1, 1, 0, 2, 2], "class cat and 1 more", "cat and 1 more: right on 50.0 %"),
        ([0, 1, 1, 1, 2, 2], "class cat", "cat: right on 50.0 %"),
    ):
        result = numbers([answers(labels, torch.tensor(predicted), 3)], [BY_CLASS]).results()["accuracy_by_class"]
        assert list(BY_CLASS.lines([result], names)[0].notes) == [note]
        assert BY_CLASS.sentence(result, names).startswith(f"Its worst class is {sentence}")


def test_resampled_it_is_what_the_images_drawn_give():
    generator = torch.Generator().manual_seed(3)
    labels, predicted = torch.randint(4, (2, 60), generator=generator)
    labels[0] = 4  # of one image alone, which not every resample has
    lowest = BY_CLASS.resampled(answers(labels, predicted, 6))
    drawn = torch.randint(60, (30, 60), generator=generator)
    weights = torch.stack([torch.bincount(rows, minlength=60).float() for rows in drawn])
    expected = [
        min(recall_score(labels[rows], predicted[rows], average=None, labels=labels[rows].unique().tolist()))
        for rows in drawn
    ]
    assert lowest(weights).tolist() == pytest.approx(expected)
