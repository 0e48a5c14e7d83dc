import csv
import io

import pytest
import torch
from scipy.stats import binomtest

import kedge
from kedge.data.groups import Groups
from kedge.evaluation import evaluate
from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.reporting import as_csv, table
from kedge.reporting.page import page

METRIC = metric("accuracy_by_group")


def answers(right, groups):
    columns = {"rank": (~right).long(), "confidence": torch.ones(len(right))}
    return Answers(columns, n=0, groups=groups)


def measured(right, groups):
    return numbers([answers(right, groups)], [METRIC]).results()["accuracy_by_group"]


@pytest.fixture
def day_and_night():
    """60 by day, 55 right; 40 by night, 30 right; 3 at dusk, all wrong; 5 of no group, right."""
    right = torch.tensor([True] * 55 + [False] * 5 + [True] * 30 + [False] * 10 + [False] * 3 + [True] * 5)
    return right, Groups.of(["day"] * 60 + ["night"] * 40 + ["dusk"] * 3 + [None] * 5, "column:hour")


def test_groups_partition_the_set(day_and_night):
    right, groups = day_and_night
    own = measured(right, groups)
    weighted = sum(g["value"] * g["images"] for g in own["groups"].values()) + 5
    assert weighted / len(right) == pytest.approx(float(right.double().mean()))
    assert sum(g["images"] for g in own["groups"].values()) + own["ungrouped"] == len(right)


def test_the_worst_has_ten_images_and_an_interval_that_counts_the_choice(day_and_night):
    own = measured(*day_and_night)
    assert own["worst"] == "night"
    assert own["value"] == pytest.approx(0.75)
    assert own["groups"]["dusk"] == {**own["groups"]["dusk"], "value": 0, "few": True, "images": 3}
    each = binomtest(30, 40).proportion_ci(0.975, method="wilson"), binomtest(55, 60).proportion_ci(0.975, "wilson")
    assert own["low"] == pytest.approx(min(e.low for e in each))
    assert own["high"] == pytest.approx(min(e.high for e in each))
    alone = binomtest(30, 40).proportion_ci(method="wilson")
    night = own["groups"]["night"]
    assert (night["low"], night["high"]) == pytest.approx((alone.low, alone.high))


def test_the_worst_of_equals_is_covered():
    """Of 400 intervals 95 % or more hold the lowest true accuracy, which three of five groups share."""
    generator = torch.Generator().manual_seed(0)
    groups = Groups.of([str(i % 5) for i in range(200)])
    truth = torch.tensor([0.7, 0.7, 0.7, 0.8, 0.9])[groups.index]
    held = sum(
        own["low"] <= 0.7 <= own["high"]
        for own in (measured(torch.rand(200, generator=generator) < truth, groups) for _ in range(400))
    )
    assert held / 400 >= 0.94


def test_it_is_said_of_groups_alone(day_and_night):
    right, groups = day_and_night
    assert not METRIC.applies(answers(right, None))
    words = METRIC.sentence(measured(right, groups), [])
    assert words == (
        "Its worst group by column:hour is night: right on 75.0 % of 40 images (1 of fewer than 10 images left aside, "
        "5 images in no group)."
    )


@pytest.fixture
def evaluated():
    torch.manual_seed(0)
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), example=(1, 8, 8))
    digits = kedge.data.load("digits", "test")
    words = ["=dark <b>" if i % 3 else "light" for i in range(len(digits))]
    words[0], words[1] = "alone", None
    return model, digits, words


def test_it_is_in_the_table_on_the_page_and_in_the_csv(evaluated):
    model, digits, words = evaluated
    results = evaluate({"one": model}, digits, shift=(), groups_of=words, resamples=0)
    own = results["models"]["one"]["clean"]["accuracy_by_group"]
    predicted = model(digits.images / 255).argmax(1)
    for name, group in own["groups"].items():
        inside = torch.tensor([word == name for word in words])
        assert group["value"] == pytest.approx(float((predicted == digits.labels)[inside].double().mean()))
        assert group["images"] == int(inside.sum())
    assert own["groups"]["alone"]["few"]
    assert own["worst"] != "alone"
    assert own["ungrouped"] == 1
    assert results["settings"]["groups_of"] == "as named"
    assert "accuracy of the worst group" in table(results, 160)
    web = page(results)
    assert "Accuracy by group" in web
    assert "alone (1 image, too few)" in web
    assert "dark <b>" not in web
    rows = {row["where"]: row for row in csv.DictReader(io.StringIO(as_csv(results)))
            if row["metric"] == "accuracy_by_group"}  # fmt: skip
    assert set(rows) == {"", "light", "alone", "'=dark <b>"}  # no formula for a spreadsheet
    assert float(rows["light"]["value"]) == pytest.approx(own["groups"]["light"]["value"])
    without = evaluate({"one": model}, digits, shift=(), resamples=0)
    assert METRIC.label not in table(without, 160)
    assert "Accuracy by group" not in page(without)


def test_a_limit_takes_the_groups_of_its_images(evaluated):
    model, digits, words = evaluated
    own = evaluate({"one": model}, digits, shift=(), groups_of=words, resamples=0, limit=60)
    groups = own["models"]["one"]["clean"]["accuracy_by_group"]["groups"]
    chosen = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))[:60]
    assert groups["light"]["images"] == sum(words[i] == "light" for i in chosen.tolist())


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda n: ["a"] * (n - 1), ValueError, "groups_of names the groups of {less} images, but digits has {n}"),
        (lambda n: [str(i) for i in range(n)], ValueError, "of {n} groups of {n} images the largest have 1 and 1"),
        (lambda n: ["a"] * (n - 4) + ["b"] * 4, ValueError, "of 2 groups of {n} images the largest have {most} and 4"),
        (lambda n: [None] * n, ValueError, "takes two groups of 10 images"),
        (lambda n: [3] * n, TypeError, "named by a text, got 3 of type int"),
    ],
)
def test_groups_that_tell_nothing_are_refused_before_any_work(evaluated, change, error, words):
    model, digits, _ = evaluated
    n = len(digits)
    with pytest.raises(error, match=words.format(n=n, less=n - 1, most=n - 4)):
        evaluate({"one": model}, digits, groups_of=change(n), notice=pytest.fail)


def test_resampled_small_groups_and_images_of_none_are_left_out(day_and_night):
    right, groups = day_and_night
    lowest = METRIC.resampled(answers(right, groups))
    assert lowest(torch.ones(1, len(right))).tolist() == pytest.approx([0.75])
    by_day = (groups.index == groups.names.index("day")).float()
    assert lowest(by_day[None]).tolist() == pytest.approx([55 / 60])
