"""AUGRC against its definition, its closed form and the authors' way to compute it."""

import itertools

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.metrics.augrc import augrc


def sample(n: int, seed: int = 0, decimals: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences, with ties where they are rounded, and whether answers are right."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, generator=generator, dtype=torch.float64)
    correct = torch.rand(n, generator=generator) < confidence
    return (confidence if decimals is None else confidence.round(decimals=decimals)), correct


def by_definition(confidence: torch.Tensor, correct: torch.Tensor) -> float:
    """The mean over a random order of equals of the trapezoids under P(wrong and answered) against P(answered)."""
    confidence, wrong, n = confidence.numpy(), (~correct).numpy(), len(correct)
    points = [(0.0, 0.0)]
    for threshold in sorted(set(confidence), reverse=True):
        answered = confidence >= threshold
        points.append((answered.sum() / n, (answered & wrong).sum() / n))
    x, y = zip(*points, strict=True)
    return float(np.trapezoid(y, x))


@pytest.mark.parametrize("decimals", [None, 1])
@pytest.mark.parametrize("n", [1, 2, 7, 300])
def test_is_the_area_under_the_generalised_risk(n, decimals):
    confidence, correct = sample(n, n, decimals)
    assert float(augrc(confidence, correct)) == pytest.approx(by_definition(confidence, correct), abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 1])
def test_is_the_closed_form_of_the_paper(decimals):
    confidence, correct = sample(500, 3, decimals)
    a = float(correct.double().mean())
    area = roc_auc_score(correct, confidence)
    assert float(augrc(confidence, correct)) == pytest.approx((1 - area) * a * (1 - a) + (1 - a) ** 2 / 2, abs=1e-12)


def test_ties_are_the_mean_over_all_their_orders():
    correct = torch.tensor([True, False, False, True])
    orders = [
        float(augrc(torch.tensor([3.0, 2.0, 1.0, 0.0]), correct[list(order)]))
        for order in itertools.permutations(range(4))
    ]
    assert float(augrc(torch.ones(4), correct)) == pytest.approx(np.mean(orders), abs=1e-12)


def test_the_ends():
    confidence = torch.arange(10.0)
    assert float(augrc(confidence, torch.ones(10, dtype=torch.bool))) == 0
    assert float(augrc(confidence, torch.zeros(10, dtype=torch.bool))) == pytest.approx(0.5)
    with pytest.raises(ValueError, match="NaN"):
        augrc(torch.tensor([float("nan")]), torch.tensor([True]))


def test_resamples_are_those_of_the_images_themselves():
    confidence, correct = sample(60, 5, 1)
    one = metric("augrc")
    answers = Answers({"log_odds": confidence, "rank": (~correct).long()})
    weights = torch.stack([torch.bincount(torch.randint(60, (60,)), minlength=60) for _ in range(20)]).float()
    drawn = one.resampled(answers)(weights)
    for row, value in zip(weights, drawn, strict=True):
        index = torch.arange(60).repeat_interleave(row.long())
        assert float(value) == pytest.approx(by_definition(confidence[index], correct[index]), abs=1e-9)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    # 1 - AUROC and accuracy of confidence uniform in [0, 1] and answers right as often: 1/6 and 1/2.
    truth = (1 / 6) * 0.25 + 0.125
    held = 0
    for seed in range(100):
        confidence, correct = sample(300, 1000 + seed)
        answers = Answers({"log_odds": confidence, "rank": (~correct).long()}, n=200, seed=seed)
        result = numbers([answers], [metric("augrc")]).results()["augrc"]
        held += result["low"] <= truth <= result["high"]
    assert held >= 88
