"""False positives at a fixed share of true positives: the closed form, scikit-learn's curve, ties, few scores."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from kedge import metrics
from kedge.metrics._base import Separation, metric

INSIDE = torch.tensor([0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2, 0.1, 0.05])
OUTSIDE = torch.tensor([0.55, 0.45, 0.35, 0.04])
ANY, USUAL = metric("fpr_at_tpr"), metric("fpr95")


@pytest.mark.parametrize(
    ("tpr", "threshold", "accepted", "fpr"),
    [(0.9, 0.1, 9, 0.75), (0.95, 0.05, 10, 0.75), (0.5, 0.5, 5, 0.25), (1.0, 0.05, 10, 0.75)],
)
def test_closed_form(tpr, threshold, accepted, fpr):
    point = metrics.operating_point(INSIDE, OUTSIDE, tpr)
    assert point.threshold == pytest.approx(threshold)
    assert (point.accepted, point.inside, point.passed, point.outside) == (accepted, 10, round(4 * fpr), 4)
    assert point.fpr == fpr


@settings(max_examples=60, deadline=None)
@given(
    inside=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    outside=st.lists(st.integers(-3, 3), min_size=1, max_size=60),
    percent=st.integers(1, 100),
)
def test_is_the_first_point_of_scikit_learns_curve_that_is_high_enough(inside, outside, percent):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    fpr, tpr, thresholds = roc_curve(truth, np.r_[inside, outside], drop_intermediate=False)
    first = np.argmax(tpr >= percent / 100 - 1e-12)
    point = metrics.operating_point(torch.tensor(inside).float(), torch.tensor(outside).float(), percent / 100)
    assert (point.fpr, point.tpr) == (pytest.approx(fpr[first]), pytest.approx(tpr[first]))
    assert point.threshold == thresholds[first]


def test_at_95_percent_it_is_fpr95_bounds_and_all():
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)
    usual = USUAL.of(Separation(inside, outside, 200))
    same = ANY.of(Separation(inside, outside, 200, tpr=0.95))
    assert usual == same
    assert (usual.value, usual.low, usual.high) == metrics.detection_summary(inside, outside, 200)["fpr95"]
    assert usual.accepted == 285
    stricter = ANY.of(Separation(inside, outside, 200, tpr=0.99))
    assert stricter.threshold < usual.threshold
    assert stricter.low <= stricter.value <= stricter.high


def test_the_interval_holds_the_truth():
    truth, held = float(torch.distributions.Normal(0.0, 1.0).cdf(torch.tensor(-1.5 + 1.2816))), 0
    for seed in range(60):
        generator = torch.Generator().manual_seed(seed)
        inside, outside = torch.randn(300, generator=generator) + 1.5, torch.randn(300, generator=generator)
        one = ANY.of(Separation(inside, outside, 200, seed, tpr=0.9))
        held += one.low <= truth <= one.high
    assert held >= 52


def test_it_is_not_measured_unless_it_is_asked_for():
    for asked in (None, 0.95):
        assert not ANY.applies(Separation(INSIDE, OUTSIDE, tpr=asked))
    assert "fpr_at_tpr" not in metrics.detection_summary(INSIDE, OUTSIDE, 0)


def test_ties_and_few_scores_are_marked():
    equal = metrics.operating_point(torch.zeros(40), torch.zeros(7), 0.5)
    assert (equal.tpr, equal.fpr) == (1, 1)
    assert equal.note(0.5) == "ties: no threshold passes 20 of 40, so 40 pass (100.0 %)"
    apart = metrics.operating_point(torch.arange(1000.0), torch.arange(7.0), 0.95)
    assert apart.note(0.95) == ""
    assert "rests on the lowest of 1 scores" in metrics.operating_point(torch.ones(1), torch.zeros(3)).note(0.95)
    assert "rests on the 2 lowest of 100" in metrics.operating_point(torch.arange(100.0), torch.zeros(3)).note(0.99)


@pytest.mark.parametrize("tpr", [0, -0.1, 1.01, float("nan")])
def test_what_is_no_share_is_refused(tpr):
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        metrics.operating_point(INSIDE, OUTSIDE, tpr)


def test_nan_and_nothing_are_refused():
    with pytest.raises(ValueError, match="NaN"):
        metrics.operating_point(torch.tensor([0.0, float("nan")]), OUTSIDE)
    with pytest.raises(ValueError, match="outside"):
        metrics.operating_point(INSIDE, torch.tensor([]))
