import pytest
import torch
from scipy.stats import binomtest

import kedge
from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.reporting import as_csv, table
from kedge.reporting.page import page

METRIC = metric("accuracy_by_frequency")
LABELS = torch.arange(100) % 5
COUNTS = [101, 100, 20, 19, 0]


def answers(right, counts=COUNTS, labels=LABELS):
    predicted = torch.where(right, labels, (labels + 1) % 5)
    probs = torch.nn.functional.one_hot(predicted, 5).float()
    columns = {"rank": (predicted != labels).long(), "confidence": torch.ones(100)}
    return Answers(columns, probs, labels, n=0, train_counts=counts)


def test_groups_are_the_published_ones_and_every_class_counts_the_same():
    right = torch.rand(100, generator=torch.Generator().manual_seed(0)) < 0.6
    own = numbers([answers(right)], [METRIC]).results()["accuracy_by_frequency"]
    of = [float(right[c == LABELS].double().mean()) for c in range(5)]
    expected = {"many": of[0], "medium": (of[1] + of[2]) / 2, "few": (of[3] + of[4]) / 2}
    assert {name: group["value"] for name, group in own["groups"].items()} == pytest.approx(expected)
    assert {name: group["classes"] for name, group in own["groups"].items()} == {"many": 1, "medium": 2, "few": 2}
    assert own["value"] == pytest.approx(expected["few"])
    assert own["group"] == "few"


def test_the_interval_of_one_class_is_wilsons_and_of_equal_classes_narrower_by_the_root():
    right = torch.arange(100) % 4 != 0  # 15 of the 20 images of every class
    groups = numbers([answers(right)], [METRIC]).results()["accuracy_by_frequency"]["groups"]
    low, high = binomtest(15, 20).proportion_ci(method="wilson")
    assert (groups["many"]["low"], groups["many"]["high"]) == pytest.approx((low, high))
    expected = (0.75 - (0.75 - low) / 2**0.5, 0.75 + (high - 0.75) / 2**0.5)
    assert (groups["few"]["low"], groups["few"]["high"]) == pytest.approx(expected)


def test_it_covers_the_truth():
    """Of 500 test sets 95 % of the intervals of two classes of accuracies 0.6 and 0.9 hold 0.75, give or take 3.5 %."""
    generator = torch.Generator().manual_seed(1)
    truth = torch.tensor([0.5, 0.5, 0.5, 0.6, 0.9])[LABELS]
    held = 0
    for _ in range(500):
        own = METRIC.result(answers(torch.rand(100, generator=generator) < truth), 0.0, 0.0, None)
        held += own.low <= 0.75 <= own.high
    assert 0.915 <= held / 500 <= 0.99


def test_it_is_not_there_where_it_would_say_nothing():
    right = torch.ones(100).bool()
    assert not METRIC.applies(answers(right, None))
    assert not METRIC.applies(answers(right, [200] * 5))
    assert METRIC.applies(answers(right))


def test_it_stands_in_the_table_the_page_and_the_csv(tmp_path):
    pixels = torch.randint(0, 256, (100, 3, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    data = TensorSet(pixels, LABELS, list("vwxyz"), "letters", "test")
    torch.manual_seed(0)
    models = {name: torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 5)) for name in ("a", "b")}

    def run(**settings):
        return evaluate(models, data, shift=(), resamples=0, examples=0, **settings)

    results = run(train_counts={"a": COUNTS})
    for text in (table(results, 160), page(results)):
        assert "accuracy of classes with fewer than 20 training images" in text
    assert "a,clean,classes with few training images,,,accuracy_by_frequency," in as_csv(results)
    assert any("1904.05160" in each["url"] for each in results["citations"])
    without = run()
    assert without["models"]["a"]["clean"]["accuracy_by_frequency"] is None
    assert "training images" not in table(without, 160)
    assert not any("1904.05160" in each["url"] for each in without["citations"])
    with pytest.raises(ValueError, match="train_counts names 'c'"):
        run(train_counts={"c": COUNTS})
    with pytest.raises(ValueError, match="one for each of 5 classes"):
        run(train_counts={"a": [1, 2]})


def test_a_run_knows_its_counts(tmp_path):
    from kedge.training.record import ImageRecord

    digits = kedge.data.imbalanced(kedge.data.load("digits", "train"), 10)
    record = ImageRecord.of(digits, None)
    assert record.of_classes(10) == torch.bincount(digits.labels, minlength=10).tolist()
    assert record.of_classes(3) is None
    assert ImageRecord.union([record]).of_classes(10) is None
