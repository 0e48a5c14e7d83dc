"""The fragility index against its closed forms, its dual (the worst distribution) and brute force."""

import json
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.special import logsumexp

from kedge.metrics import fragility_index
from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers
from kedge.metrics.fragility_index import ranking_errors, smallest_k


def index(errors, target=0.0, **more):
    return float(smallest_k(torch.tensor(errors, dtype=torch.float64), target, **more)[0])


def by_scipy(errors, target):
    errors = np.asarray(errors)
    return brentq(lambda k: k * (logsumexp(errors / k) - math.log(len(errors))) - target, 1e-3, 1e3, xtol=1e-13)


def answers(errors, **more):
    """Of two classes with these ranking errors."""
    wrong = (torch.as_tensor(errors, dtype=torch.float64) + 1) / 2
    probs = torch.stack([1 - wrong, wrong], 1)
    labels = torch.zeros(len(wrong), dtype=torch.long)
    return Answers({"rank": (wrong > 0.5).long()}, probs, labels, **more)


FOUR = [-1.0, -1.0, -1.0, 1.0]


@pytest.mark.parametrize(
    ("errors", "target", "expected"),
    [
        (FOUR, 0.0, 1 / math.log(3)),  # x = e^(1/k) solves (3 / x + x) / 4 = 1
        ([-1.0, *FOUR], 0.0, 1 / math.log(4)),
        (FOUR, 0.9, 0.072135),
        (FOUR, -0.4, 4.044589),
    ],
)
def test_values_in_closed_form(errors, target, expected):
    assert index(errors, target) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("target", [-0.3, 0.0, 0.5])
def test_is_the_root_that_scipy_finds(target):
    errors = np.random.default_rng(0).uniform(-1, 1, 300) ** 3 - 0.45
    assert index(errors.tolist(), target) == pytest.approx(by_scipy(errors, target), rel=1e-9)


def test_the_ends():
    assert index([-0.5, -0.1, 0.0]) == 0
    assert index([0.2, 0.2], 0.2) == 0
    assert index(FOUR, -0.5) == math.inf
    assert index(FOUR, -0.6) == math.inf
    assert index([1.0], 0.0) == math.inf
    assert math.isfinite(index(FOUR, -0.4999999))


def test_gaussian_errors():
    """σ² / (2 (τ - μ)): of N(-1, 1) and a target of 0 one half."""
    draws = torch.randn(200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64) - 1
    assert index(draws.tolist()) == pytest.approx(0.5, abs=0.01)


def test_it_scales_and_moves_as_it_must():
    errors = torch.rand(50, generator=torch.Generator().manual_seed(1), dtype=torch.float64) * 1.2 - 1
    one = index(errors.tolist(), 0.05)
    assert index((3 * errors).tolist(), 0.15) == pytest.approx(3 * one, rel=1e-9)
    assert index(errors.flip(0).tolist(), 0.05) == pytest.approx(one, rel=1e-9)
    assert index(errors.repeat(3).tolist(), 0.05) == pytest.approx(one, rel=1e-9)
    assert index(errors.tolist(), 0.1) < one < index(errors.tolist(), 0.0)
    raised = errors.clone()
    raised[7] += 0.2
    assert index(raised.tolist(), 0.05) > one


def test_the_worst_distribution_weighs_by_the_exponential():
    """Of the first case (1/12, 1/12, 1/12, 3/4): E_P z = 1/2 = k KL(P, P̂); no other one needs a larger k."""
    errors, k = np.array(FOUR), index(FOUR)
    worst = np.exp(errors / k)
    worst /= worst.sum()
    assert worst == pytest.approx([1 / 12, 1 / 12, 1 / 12, 3 / 4], rel=1e-9)
    divergence = (worst * np.log(worst * 4)).sum()
    assert (worst @ errors, k * divergence) == pytest.approx((0.5, 0.5), rel=1e-9)
    others = np.random.default_rng(0).dirichlet(np.full(4, 0.3), 20_000).clip(1e-12)
    needed = (others @ errors) / (others * np.log(others * 4)).sum(1)
    assert needed.max() <= k + 1e-9
    assert needed.max() > 0.99 * k


def test_weights_count_images():
    weights = torch.tensor([[3.0, 0.0, 1.0], [2.0, 0.0, 0.0], [0.0, 5.0, 1.0], [0.0, 0.0, 2.0]])
    errors = torch.tensor([-1.0, -0.2, 1.0], dtype=torch.float64)
    values = smallest_k(errors, 0.0, weights).tolist()
    assert values[:2] == pytest.approx([1 / math.log(3), 0.0], rel=1e-9)
    assert values[2:] == [math.inf, math.inf]  # the mean is 0, and 1


def test_of_probabilities():
    probs = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25]], dtype=torch.float64)
    labels = torch.tensor([0, 1, 1])
    assert ranking_errors(probs, labels).tolist() == pytest.approx([-0.5, 0.3, -0.25])
    assert float(fragility_index(probs, labels)) == pytest.approx(by_scipy([-0.5, 0.3, -0.25], 0.0), rel=1e-9)
    rounded = ranking_errors(probs.bfloat16(), labels)
    assert float(fragility_index(probs.bfloat16(), labels)) == pytest.approx(by_scipy(rounded, 0.0), rel=1e-9)
    # The trap: who says nothing is not fragile at a target of 0.
    uniform = torch.full((4, 5), 0.2)
    assert float(fragility_index(uniform, torch.arange(4))) == 0
    assert float(fragility_index(uniform, torch.arange(4), -0.5)) == math.inf
    # A class that is left out has the probability 0.
    assert ranking_errors(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).tolist() == [1.0]


def test_what_it_cannot_take():
    probs, labels = torch.full((3, 2), 0.5), torch.tensor([0, 1, 0])
    with pytest.raises(ValueError, match="softmax"):
        fragility_index(torch.randn(3, 2) * 5, labels)
    with pytest.raises(ValueError, match="two classes or more"):
        fragility_index(torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
    for target in (1.5, -2, float("nan")):
        with pytest.raises(ValueError, match="target is a mean ranking error, -1 to 1"):
            fragility_index(probs, labels, target)
    with pytest.raises(ValueError, match="no samples"):
        fragility_index(probs[:0], labels[:0])


def test_several_targets_with_intervals_and_infinity_in_words():
    generator = torch.Generator().manual_seed(2)
    errors = torch.rand(400, generator=generator, dtype=torch.float64) * 0.6 - 1
    errors[:12] = torch.rand(12, generator=generator, dtype=torch.float64)
    one = metric("fragility_index")
    fine = numbers([answers(errors, n=200)], [one]).results()["fragility_index"]["targets"]
    assert [each["target"] for each in fine] == [0.0, -0.5]
    for each in fine:
        assert 0 < each["low"] < each["value"] < each["high"]
        assert each["value"] == pytest.approx(by_scipy(errors.numpy(), each["target"]), rel=1e-6)
    bad = numbers([answers(errors * 0.5, n=200)], [one]).results()["fragility_index"]
    assert bad["targets"][1]["value"] == bad["targets"][1]["high"] == "infinite"
    json.dumps(bad, allow_nan=False)
    assert one.sentence(bad, []).startswith("Its fragility index at a target of -0.5 is infinite")
    assert one.sentence({"targets": fine}, []) == ""
    lines = one.lines([{"targets": fine}, bad, None], [])
    assert [line.label for line in lines] == ["fragility index, target 0", "fragility index, target -0.5"]
    assert [cell and cell["value"] for cell in lines[1].cells] == [fine[1]["value"], "infinite", None]
    alone = numbers([answers(errors, n=0)], [one]).results()["fragility_index"]["targets"]
    assert all(each["low"] is each["high"] is None for each in alone)


def test_without_a_mistake_the_interval_says_what_so_few_images_leave_open():
    """Three further images that are surely wrong."""
    errors = [-1.0] * 100
    first = numbers([answers(errors, n=50)], [metric("fragility_index")]).results()["fragility_index"]["targets"][0]
    assert (first["value"], first["low"]) == (0, 0)
    assert first["high"] == pytest.approx(1 / math.log(100 / 3), rel=1e-6)


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """Errors -1 and 1 with a chance of q: log mean exp(z / k) = 0 where e^(1/k) = (1 - q) / q."""
    q, held = 0.1, 0
    truth = 1 / math.log((1 - q) / q)
    for seed in range(40):
        errors = (torch.rand(300, generator=torch.Generator().manual_seed(seed)) < q).double() * 2 - 1
        result = numbers([answers(errors, n=100, seed=seed)], [metric("fragility_index")]).results()
        first = result["fragility_index"]["targets"][0]
        held += first["low"] <= truth <= first["high"]
    assert held >= 34


def test_one_class_has_none():
    sample = Answers({"rank": torch.zeros(3)}, torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
    assert not metric("fragility_index").applies(sample)
