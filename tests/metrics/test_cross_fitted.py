import math

import pytest
import torch

from kedge import metrics
from kedge.metrics._cross_fitted import _averaged

FITTED = (metrics.cross_fitted_error, metrics.cross_fitted_smooth_error)


def calibrated(n: int, low: float, generator: torch.Generator, gap: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Confidences uniform in `low`..1, right as often as they say less `gap`."""
    confidence = low + (1 - low) * torch.rand(n, generator=generator, dtype=torch.float64)
    return confidence, torch.rand(n, generator=generator, dtype=torch.float64) < confidence - gap


def z(ours: metrics.CrossFitted, theirs: metrics.CrossFitted) -> float:
    error = (ours.influence - theirs.influence).std() / math.sqrt(len(ours.influence))
    return float((ours.value - theirs.value) / error)


@pytest.mark.parametrize("low", [0.5, 0.3])
def test_two_calibrated_models_are_equally_calibrated(low: float):
    """By definition both errors are 0. Plug-in differences had p < 0.05 in 37 (ECE) and 75 % (smooth ECE) at 0.3."""
    generator = torch.Generator().manual_seed(0)
    sets = 40
    for fitted in FITTED:
        beyond, values = 0, []
        for _ in range(sets):
            ours, theirs = (fitted(*calibrated(1000, bottom, generator)) for bottom in (0.9, low))
            beyond += abs(z(ours, theirs)) > 1.96
            values.append(float(theirs.value))
        assert beyond <= 5  # of 40 at 5 %: more than 5 in one of 70 tries
        spread = torch.tensor(values).std() / math.sqrt(sets)
        assert abs(torch.tensor(values).mean()) < 3.5 * spread


@pytest.mark.parametrize("fitted", FITTED)
def test_a_plain_gap_is_the_gap(fitted):
    """10 points too sure everywhere: every weight is known, so the value is the plain mean gap, and its spread too."""
    generator = torch.Generator().manual_seed(1)
    confidence, correct = calibrated(4000, 0.6, generator, gap=0.1)
    gap = confidence - correct.double()
    found = fitted(confidence, correct)
    assert float(found.value) == pytest.approx(float(gap.mean()), abs=1e-6)
    assert float(found.influence.std()) == pytest.approx(float(gap.std()), rel=0.01)


def test_a_difference_of_three_points_is_seen():
    generator = torch.Generator().manual_seed(2)
    seen = 0
    for _ in range(20):
        ours = metrics.cross_fitted_error(*calibrated(2000, 0.9, generator))
        theirs = metrics.cross_fitted_error(*calibrated(2000, 0.5, generator, gap=0.03))
        seen += z(ours, theirs) < -1.96
    assert seen >= 10


def test_weights_learned_on_one_half_are_applied_to_the_other():
    """By hand, one split of one bin: the sign of each half's sum times the sum of the other half."""
    confidence = torch.full((6,), 0.8, dtype=torch.float64)
    correct = torch.tensor([1, 1, 1, 0, 0, 1]).bool()
    split = torch.tensor([[1, 1, 1, 0, 0, 0]]).float()
    first, second = 0.6, -1.4  # Σ (correct - 0.8)
    expected = (1 * second + -1 * first) / 6
    found = metrics.cross_fitted_error(confidence, correct, bins=1, splits=split)
    assert float(found.value) == pytest.approx(expected, abs=1e-12)


def test_the_level_that_learned_best_is_applied():
    scores, gains = [torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])], [torch.tensor([3.0, 5.0])] * 2
    gains[1] = torch.tensor([7.0, 11.0])
    assert float(_averaged(scores, gains, 1, 2)) == pytest.approx((3 + 11) / 2)


def test_the_same_from_the_same_seed_in_any_dtype_and_with_ties():
    generator = torch.Generator().manual_seed(3)
    confidence, correct = calibrated(300, 0.5, generator)
    for fitted in FITTED:
        assert fitted(confidence, correct).value == fitted(confidence, correct.float()).value
        single = fitted(confidence.float(), correct)
        assert float(single.value) == pytest.approx(float(fitted(confidence, correct).value), abs=1e-3)
        for same in (torch.ones(50), torch.zeros(50), torch.full((50,), 0.7)):
            found = fitted(same, torch.arange(50) < 35)
            assert bool(found.influence.isfinite().all())
            assert bool(found.value.isfinite())
        with pytest.raises(ValueError, match="no probabilities"):
            fitted(confidence + 1, correct)
        with pytest.raises(ValueError, match="splits"):
            fitted(confidence, correct, splits=metrics.halves(10))
    halves = metrics.halves(101, 4, seed=1)
    assert halves.sum(1).tolist() == [50.0] * 4
    assert bool((halves == metrics.halves(101, 4, seed=1)).all())
