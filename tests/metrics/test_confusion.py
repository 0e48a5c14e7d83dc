"""The confusion matrix against scikit-learn, and how it is shown."""

import pytest
import torch
from sklearn.metrics import confusion_matrix

from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.metrics.confusion import confusion_counts

CONFUSION = metric("confusion")


def result(labels: torch.Tensor, predicted: torch.Tensor, classes: int) -> dict:
    columns = {"rank": (labels != predicted).long(), "predicted": predicted.float()}  # columns are kept in float32
    answers = Answers(columns, torch.full((len(labels), classes), 1 / classes), labels, n=0)
    return numbers([answers], [CONFUSION]).results()["confusion"]


@pytest.fixture
def drawn() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randint(7, (300,), generator=generator) for _ in range(2))


def test_counts_are_those_of_sklearn(drawn):
    expected = confusion_matrix(*drawn, labels=range(8))
    assert confusion_counts(*drawn, 8).tolist() == expected.tolist()
    found = result(*drawn, 8)
    assert found["counts"] == expected.tolist()
    off = expected.copy()
    off[range(8), range(8)] = 0
    first = found["largest"][0]
    assert first["count"] == off.max() == off[first["label"], first["predicted"]]
    assert first["of"] == expected[first["label"]].sum()
    assert found["value"] == pytest.approx(off.max() / 300)
    counts = [pair["count"] for pair in found["largest"]]
    assert counts == sorted(off.flatten().tolist(), reverse=True)[:20]


def test_everything_right_has_no_confusion():
    found = result(torch.arange(3), torch.arange(3), 3)
    assert (found["value"], found["largest"]) == (0.0, [])
    assert list(CONFUSION.lines([found], ["a", "b", "c"])[0].notes) == ["none"]


def test_of_many_classes_the_largest_confusions_alone():
    labels = torch.arange(300).repeat(3)
    predicted = torch.where(labels == 7, 9, labels)
    found, names = result(labels, predicted, 300), [f"class {c}" for c in range(300)]
    assert found["counts"] is None
    assert found["largest"] == [{"label": 7, "predicted": 9, "count": 3, "of": 3}]
    heat = CONFUSION.heat(found, names)
    assert (list(heat.rows), heat.counts, list(heat.totals)) == (["class 7", "class 9"], [[0, 3], [0, 3]], [3, 3])
    assert list(heat.classes) == [7, 9]
    assert "of 300" in heat.note
    assert CONFUSION.heat({**found, "drawn": None}, names) is None  # as in results of before
    (line,) = CONFUSION.details([found, None], names)
    assert (line.label, list(line.cells)) == ("class 7 taken for class 9", [3, None])
    assert [n[0] for n in CONFUSION.numbers(found, names)] == ["", "class 7 taken for class 9"]


def test_few_classes_are_drawn_and_all_counts_are_in_the_csv(drawn):
    found, names = result(*drawn, 7), list("abcdefg")
    heat = CONFUSION.heat(found, names)
    assert heat.counts == found["counts"]
    assert heat.good
    assert len(list(CONFUSION.numbers(found, names))) == 1 + 49


def test_the_most_confused_of_many_classes_are_drawn():
    generator = torch.Generator().manual_seed(3)
    labels, predicted = (torch.randint(60, (5000,), generator=generator) for _ in range(2))
    predicted = torch.where(labels % 2 == 0, labels, predicted)  # confusions of odd classes alone
    found = result(labels, predicted, 60)["drawn"]
    expected = confusion_matrix(labels, predicted, labels=range(60))
    chosen = found["classes"]
    assert len(chosen) == 20
    assert chosen == sorted(chosen)
    assert found["counts"] == expected[chosen][:, chosen].tolist()
    assert found["images"] == expected.sum(1)[chosen].tolist()
    off = expected - expected * torch.eye(60, dtype=torch.long).numpy()
    label, answer = divmod(int(off.argmax()), 60)
    assert {label, answer} <= set(chosen)
