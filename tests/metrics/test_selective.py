import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import metrics


@pytest.mark.parametrize("coverage", [0.05, 0.5, 0.9, 0.95, 1.0])
def test_threshold_keeps_the_wanted_share(coverage: float):
    confidence = torch.rand(200, generator=torch.Generator().manual_seed(0))
    threshold = metrics.threshold_for_coverage(confidence, coverage)
    kept, _ = metrics.selective_accuracy(confidence, torch.ones(200, dtype=torch.bool), threshold)
    assert kept == pytest.approx(coverage)


def test_accuracy_among_the_kept():
    confidence = torch.tensor([0.9, 0.8, 0.7, 0.6])
    correct = torch.tensor([True, True, False, False])
    assert metrics.selective_accuracy(confidence, correct, 0.8) == (0.5, 1.0)
    assert metrics.selective_accuracy(confidence, correct, 0.0) == (1.0, 0.5)
    assert metrics.selective_accuracy(confidence, correct, 0.99) == (0.0, None)


def test_ties_are_kept():
    assert metrics.selective_accuracy(torch.ones(4), torch.ones(4).bool(), 1.0)[0] == 1.0
    assert metrics.threshold_for_coverage(torch.ones(4), 0.5) == 1.0


@pytest.mark.parametrize("coverage", [0.0, 1.1, -1.0])
def test_bad_coverage(coverage: float):
    with pytest.raises(ValueError, match=str(coverage)):
        metrics.threshold_for_coverage(torch.rand(4), coverage)


def textbook(confidence: np.ndarray, correct: np.ndarray) -> np.ndarray:
    """The risks among the k most confident, in the order given for equals."""
    errors = ~correct[np.argsort(-confidence, kind="stable")]
    return np.cumsum(errors) / np.arange(1, len(errors) + 1)


samples = st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(samples)
def test_ties_are_the_mean_over_all_orders(pairs: list[tuple[int, bool]]):
    confidence, correct = np.array([p[0] for p in pairs], float), np.array([p[1] for p in pairs], bool)
    orders = itertools.permutations(range(len(pairs))) if len(pairs) < 7 else [range(len(pairs))]
    risks = np.array([textbook(confidence[list(o)], correct[list(o)]) for o in orders])
    coverage, risk = metrics.risk_coverage(torch.tensor(confidence), torch.tensor(correct))
    np.testing.assert_allclose(coverage, np.arange(1, len(pairs) + 1) / len(pairs))
    if len(pairs) < 7:
        np.testing.assert_allclose(risk, risks.mean(axis=0), atol=1e-12)
    area = float(metrics.aurc(torch.tensor(confidence), torch.tensor(correct)))
    turned = float(metrics.aurc(torch.tensor(confidence[::-1].copy()), torch.tensor(correct[::-1].copy())))
    assert area == pytest.approx(turned, abs=1e-12)
    assert area == pytest.approx(float(risk.mean()), abs=1e-12)


def predictions(n: int = 2000, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, generator=generator)
    return confidence, torch.rand(n, generator=generator) < confidence


def test_area_is_the_textbook_sum():
    confidence, correct = predictions()
    risks = textbook(confidence.numpy(), correct.numpy())
    np.testing.assert_allclose(metrics.risk_coverage(confidence, correct)[1], risks, atol=1e-12)
    assert float(metrics.aurc(confidence, correct)) == pytest.approx(risks.mean(), abs=1e-12)
    best = textbook(correct.numpy().astype(float), correct.numpy()).mean()
    assert float(metrics.excess_aurc(confidence, correct)) == pytest.approx(risks.mean() - best, abs=1e-12)
    # The published approximation of the optimum: r + (1 - r) ln(1 - r).
    r = float((~correct).double().mean())
    assert best == pytest.approx(r + (1 - r) * np.log(1 - r), abs=1e-3)


def test_ends_of_the_area():
    correct = torch.arange(1000) < 800
    assert float(metrics.excess_aurc(correct.float(), correct)) == 0
    assert float(metrics.aurc(torch.ones(1000), correct)) == pytest.approx(0.2)  # a random order
    assert float(metrics.aurc(-correct.float(), correct)) > 0.3
    assert float(metrics.aurc(torch.rand(9), torch.ones(9).bool())) == 0


@pytest.mark.parametrize("decimals", [1, 6])
def test_interval_of_the_area_is_the_bootstrap(decimals: int):
    confidence, correct = predictions(150)
    confidence = confidence.round(decimals=decimals)
    areas = [
        float(metrics.aurc(confidence.repeat_interleave(w.long()), correct.repeat_interleave(w.long())))
        for w in next(metrics.resamples(150, 80, 4))
    ]
    low, high = metrics.aurc_interval(confidence, correct, n=80, seed=4)
    assert (low, high) == pytest.approx(tuple(np.quantile(areas, [0.025, 0.975])), abs=1e-9)
    assert low < float(metrics.aurc(confidence, correct)) < high
    assert metrics.aurc_interval(confidence, torch.ones(150).bool(), n=20) == (0, pytest.approx(0.02))


def test_threshold_for_risk_is_the_widest_that_holds():
    confidence, correct = predictions()
    confidence = confidence.round(decimals=2)
    for risk in (0.05, 0.1, 0.3, 0.49):
        threshold, coverage = metrics.threshold_for_risk(confidence, correct, risk)
        kept, accuracy = metrics.selective_accuracy(confidence, correct, threshold)
        assert kept == pytest.approx(coverage)
        assert 1 - accuracy <= risk
        lower = confidence[confidence < threshold].unique()
        assert all(1 - metrics.selective_accuracy(confidence, correct, float(t))[1] > risk for t in lower)


def test_threshold_for_risk_at_its_ends():
    confidence, correct = predictions(100)
    assert metrics.threshold_for_risk(confidence, torch.zeros(100).bool(), 0.2) == (None, 0.0)
    assert metrics.threshold_for_risk(confidence, torch.ones(100).bool(), 0.0) == (float(confidence.min()), 1.0)
    assert metrics.threshold_for_risk(torch.ones(10), torch.arange(10) > 0, 0.1) == (1.0, 1.0)  # 0.1 is 0.1
    for risk in (-0.1, 1.0):
        with pytest.raises(ValueError, match=str(risk)):
            metrics.threshold_for_risk(confidence, correct, risk)
    with pytest.raises(ValueError, match="certainty"):
        metrics.threshold_for_risk(confidence, correct, 0.1, certainty=1.0)


def test_a_certain_threshold_keeps_its_promise():
    # Confidence u is right with probability u, so the true risk at threshold t is (1 - t) / 2.
    broken = {None: 0, 0.9: 0}
    for seed in range(100):
        confidence, correct = predictions(1000, seed)
        for certainty in broken:
            threshold, _ = metrics.threshold_for_risk(confidence, correct, 0.2, certainty)
            broken[certainty] += threshold is not None and (1 - threshold) / 2 > 0.2
    assert broken[0.9] <= 10
    assert broken[None] >= 25  # what the correction is for
    confidence, correct = predictions(20)
    assert metrics.threshold_for_risk(confidence, correct, 0.01, certainty=0.95) == (None, 0.0)


def test_accepted_foreign_inputs_are_errors():
    confidence, correct = predictions(300)
    outside = torch.rand(200, generator=torch.Generator().manual_seed(5)) * 0.7
    coverage, risk = metrics.joint_risk_coverage(confidence, correct, outside)
    whole = np.r_[confidence.numpy(), outside.numpy()], np.r_[correct.numpy(), np.zeros(200, bool)]
    np.testing.assert_allclose(risk, textbook(*whole), atol=1e-12)
    assert len(coverage) == 500
    assert float(risk[-1]) == pytest.approx(1 - float(correct.sum()) / 500)


def test_what_is_not_a_column_is_refused():
    confidence, correct = predictions(10)
    with pytest.raises(ValueError, match=r"torch.int64 \[10\]"):
        metrics.aurc(confidence, correct.long())
    with pytest.raises(ValueError, match=r"bool \[9\]"):
        metrics.risk_coverage(confidence, correct[:9])
    with pytest.raises(ValueError, match="NaN"):
        metrics.aurc(torch.full((3,), torch.nan), torch.ones(3).bool())


def test_area_accumulates():
    confidence, correct = predictions(200)
    for excess, function in ((False, metrics.aurc), (True, metrics.excess_aurc)):
        metric = metrics.AURC(excess=excess)
        for c, k in zip(confidence.split(33), correct.split(33), strict=True):
            metric.update(c, k)
        assert float(metric.compute()) == pytest.approx(float(function(confidence, correct)), abs=1e-12)
        with pytest.raises(ValueError, match="bool"):
            metric.update(confidence, correct.long())


def test_two_processes_are_one():
    confidence, correct = predictions(200)
    first, second = metrics.AURC(), metrics.AURC()
    first.update(confidence[:70], correct[:70])
    second.update(confidence[70:], correct[70:])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(metrics.aurc(confidence, correct)), abs=1e-12)


def test_selective_accuracy_looks_at_its_input_as_its_siblings_do():
    confidence, correct = torch.tensor([0.9, 0.4]), torch.tensor([True, False])
    for call, words in (
        (lambda: metrics.selective_accuracy(confidence[:0], correct[:0], 0.5), "N >= 1"),
        (lambda: metrics.selective_accuracy(torch.tensor([0.9, torch.nan]), correct, 0.5), "without NaN"),
        (lambda: metrics.selective_accuracy(confidence, torch.tensor([3, 7]), 0.5), "correct must be bool"),
        (lambda: metrics.selective_accuracy(confidence, correct, float("nan")), "threshold must be a number"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
