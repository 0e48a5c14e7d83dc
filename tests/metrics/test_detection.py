from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from kedge import metrics

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=60)  # few values: many ties


@settings(max_examples=80, deadline=None)
@given(inside=scores, outside=scores)
def test_agrees_with_scikit_learn_with_ties(inside: list[int], outside: list[int]):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    values = np.r_[inside, outside]
    ours = torch.tensor(inside).float(), torch.tensor(outside).float()
    assert float(metrics.auroc(*ours)) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    assert float(metrics.fpr95(*ours)) == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


@pytest.mark.parametrize("size", [1, 19, 20, 40, 60, 100, 200, 1000])
def test_recall_on_exact_fractions(size: int):
    inside = torch.randperm(size, generator=torch.Generator().manual_seed(size)).float()
    outside = torch.arange(-5, size).float()
    truth = np.r_[np.ones(size), np.zeros(size + 5)]
    fpr, tpr, _ = roc_curve(truth, torch.cat([inside, outside]).numpy(), drop_intermediate=False)
    assert float(metrics.fpr95(inside, outside)) == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_sign_and_positive_class():
    high, low = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([-1.0, 0.0, 1.0])
    assert float(metrics.auroc(high, low)) == 1
    assert float(metrics.auroc(low, high)) == 0
    assert float(metrics.fpr95(high, low)) == 0
    assert float(metrics.fpr95(low, high)) == 1
    assert float(metrics.auroc(high, high)) == 0.5


def test_infinite_scores_rank_and_nan_is_refused():
    assert float(metrics.auroc(torch.tensor([float("inf")]), torch.tensor([float("-inf")]))) == 1
    with pytest.raises(ValueError, match="1 of 2 scores inside are NaN"):
        metrics.auroc(torch.tensor([0.0, float("nan")]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="outside"):
        metrics.fpr95(torch.tensor([0.0]), torch.tensor([]))


def test_interval_agrees_with_the_bootstrap():
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)
    draws = torch.tensor(
        [
            float(
                metrics.auroc(
                    inside[torch.randint(300, (300,), generator=generator)],
                    outside[torch.randint(200, (200,), generator=generator)],
                )
            )
            for _ in range(600)
        ]
    )
    low, high = metrics.auroc_interval(inside, outside)
    assert low < float(metrics.auroc(inside, outside)) < high
    assert (high - low) == pytest.approx(2 * 1.96 * float(draws.std()), rel=0.12)


@pytest.mark.parametrize(("true", "size"), [(0.9993, 300), (0.9902, 50), (0.9, 200), (0.9999, 1000)])
def test_the_interval_holds_a_true_area_near_one(true: float, size: int):
    """Normal scores, whose AUROC is Φ(shift / √2). On the scale of the AUROC itself 81, 83, 94 and 80 % were held."""
    generator = torch.Generator().manual_seed(0)
    shift = 2**0.5 * NormalDist().inv_cdf(true)
    held = 0
    for _ in range(200):
        inside = torch.randn(size, generator=generator) + shift
        low, high = metrics.auroc_interval(inside, torch.randn(size, generator=generator))
        held += low <= true <= high
        turned = metrics.auroc_interval(-inside, -torch.randn(size, generator=generator))
        assert 0 <= turned[0] <= turned[1] <= 1
    assert held >= 180


def test_the_interval_holds_a_few_that_lie_far_inside():
    """Two in a hundred of the outside score like the inside: the true AUROC is 0.99 whatever the rest does."""
    generator = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(200):
        outside = torch.randn(300, generator=generator)
        outside = torch.where(torch.rand(300, generator=generator) < 0.02, outside + 20, outside)
        low, high = metrics.auroc_interval(torch.randn(300, generator=generator) + 20, outside)
        held += low <= 0.99 <= high
    assert held >= 180


def test_the_interval_turns_with_the_sides():
    generator = torch.Generator().manual_seed(4)
    inside, outside = torch.randn(40, generator=generator) + 3, torch.randn(60, generator=generator)
    low, high = metrics.auroc_interval(inside, outside)
    assert metrics.auroc_interval(outside, inside) == (pytest.approx(1 - high), pytest.approx(1 - low))
    assert metrics.auroc_interval(torch.zeros(30), torch.ones(100)) == (0.0, pytest.approx(0.1))
    assert metrics.auroc_interval(torch.zeros(30), torch.zeros(100)) == (pytest.approx(0.4), pytest.approx(0.6))


def test_interval_of_perfect_separation_is_not_a_point():
    low, high = metrics.auroc_interval(torch.ones(30), torch.zeros(100))
    assert (low, high) == (pytest.approx(0.9), 1.0)
    assert metrics.auroc_interval(torch.ones(1), torch.zeros(5)) == (0, 1)


@settings(max_examples=80, deadline=None)
@given(inside=scores, outside=scores)
def test_areas_under_precision_agree_with_scikit_learn(inside: list[int], outside: list[int]):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    values = np.r_[inside, outside]
    ours = torch.tensor(inside).float(), torch.tensor(outside).float()
    assert float(metrics.aupr_in(*ours)) == pytest.approx(average_precision_score(truth, values), abs=1e-12)
    assert float(metrics.aupr_out(*ours)) == pytest.approx(average_precision_score(1 - truth, -values), abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(inside=scores, outside=scores)
def test_roc_curve_agrees_with_scikit_learn(inside: list[int], outside: list[int]):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    fpr, tpr, _ = roc_curve(truth, np.r_[inside, outside], drop_intermediate=False)
    ours = metrics.roc_curve(torch.tensor(inside).float(), torch.tensor(outside).float())
    np.testing.assert_allclose(ours[0], fpr, atol=1e-12)
    np.testing.assert_allclose(ours[1], tpr, atol=1e-12)


def drawn(n: int = 3000, m: int = 2000, shift: float = 1.5) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, generator=generator) + shift, torch.randn(m, generator=generator)


@pytest.mark.parametrize("shift", [0.0, 1.5, 6.0])
def test_a_thinned_curve_keeps_the_area(shift: float):
    inside, outside = drawn(shift=shift)
    fpr, tpr = metrics.roc_curve(inside, outside)
    assert len(fpr) <= 200
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert bool((fpr.diff() >= 0).all() and (tpr.diff() >= 0).all())
    assert float(torch.trapezoid(tpr, fpr)) == pytest.approx(float(metrics.auroc(inside, outside)), abs=1e-3)
    with pytest.raises(ValueError, match="points is 1"):
        metrics.roc_curve(inside, outside, points=1)


@pytest.mark.parametrize("ties", [True, False])
def test_draws_are_the_metrics_of_the_resampled_sets(ties: bool):
    inside, outside = drawn(60, 45)
    if ties:
        inside, outside = inside.round(), outside.round()
    draws = metrics.detection_draws(inside, outside, 5, seed=3)
    weights = [next(metrics.resamples(60, 5, 3)).long(), next(metrics.resamples(45, 5, 1_000_006)).long()]
    for row, w_in, w_out in zip(draws, *weights, strict=True):
        again = inside.repeat_interleave(w_in), outside.repeat_interleave(w_out)
        expected = [f(*again) for f in (metrics.auroc, metrics.aupr_in, metrics.aupr_out, metrics.fpr95)]
        assert row.tolist() == pytest.approx([float(e) for e in expected], abs=1e-6)


def test_summary_has_every_metric_with_its_interval():
    inside, outside = drawn(400, 300)
    summary = metrics.detection_summary(inside, outside, resamples=200, seed=1)
    assert list(summary) == ["auroc", "aupr_in", "aupr_out", "fpr95"]
    assert summary["auroc"] == (float(metrics.auroc(inside, outside)), *metrics.auroc_interval(inside, outside))
    for name in ("aupr_in", "aupr_out", "fpr95"):
        value, low, high = summary[name]
        assert value == float(getattr(metrics, name)(inside, outside))
        assert (low, high) == getattr(metrics, f"{name}_interval")(inside, outside, n=200, seed=1)
        assert 0 <= low < value < high <= 1
    assert metrics.detection_summary(inside, outside, resamples=0)["fpr95"][1:] == (None, None)


def test_intervals_hold_the_truth_as_often_as_they_say():
    truth = {n: float(getattr(metrics, n)(*drawn(300_000, 300_000))) for n in ("aupr_in", "aupr_out", "fpr95")}
    held = dict.fromkeys(truth, 0)
    generator = torch.Generator().manual_seed(7)
    for _ in range(100):
        inside, outside = torch.randn(200, generator=generator) + 1.5, torch.randn(200, generator=generator)
        summary = metrics.detection_summary(inside, outside, resamples=200)
        for name, value in truth.items():
            held[name] += summary[name][1] <= value <= summary[name][2]
    assert min(held.values()) >= 87, held


def test_perfect_separation_and_few_images_have_wide_intervals():
    summary = metrics.detection_summary(torch.ones(30), torch.zeros(100), resamples=20)
    for name in ("aupr_in", "aupr_out"):
        assert summary[name] == (1, pytest.approx(0.9), 1)
    assert summary["fpr95"] == (0, 0, pytest.approx(0.1))
    assert metrics.fpr95_interval(torch.ones(1), torch.zeros(5)) == (0, 1)


def test_groups_are_means_over_sets_not_over_images():
    inside, far = drawn(500, 300, 3.0)
    near, other = far[:50] + 1.5, far + 2.0
    found = metrics.grouped(
        inside,
        {"a": near, "b": other, "c": far, "d": far},
        {"a": "near", "b": "near", "c": "far", "d": None},
        resamples=100,
    )
    assert list(found) == ["near", "far"]
    for name in ("auroc", "aupr_in", "aupr_out", "fpr95"):
        metric = getattr(metrics, name)
        value, low, high = found["near"][name]
        assert value == pytest.approx((float(metric(inside, near)) + float(metric(inside, other))) / 2)
        assert low <= value <= high
        assert found["far"][name][0] == float(metric(inside, far))
    assert metrics.grouped(inside, {"a": near}, {"a": "near"}, resamples=0)["near"]["auroc"][1:] == (None, None)
    assert metrics.grouped(inside, {"a": near}, {}) == {}


def test_accumulated_over_batches():
    inside, outside = drawn(200, 150)
    scores_, is_inside = torch.cat([inside, outside]), torch.arange(350) < 200
    mixed = torch.randperm(350, generator=torch.Generator().manual_seed(0))
    for metric, function in ((metrics.AUPRIn(), metrics.aupr_in), (metrics.AUPROut(), metrics.aupr_out)):
        for index in mixed.split(64):
            metric.update(scores_[index], is_inside[index])
        assert float(metric.compute()) == pytest.approx(float(function(inside, outside)), abs=1e-12)
