import numpy as np
import pytest
from scipy.stats import linregress, norm

from kedge.metrics import subgroup_curve

X = np.linspace(0.3, 0.95, 20)


def test_points_on_a_line_have_no_curvature():
    curve = subgroup_curve(X, 0.5 * X + 0.1)
    assert curve.quadratic == pytest.approx((0, 0.5, 0.1), abs=1e-9)
    assert (curve.slope, curve.intercept, curve.r2) == pytest.approx((0.5, 0.1, 1))
    assert curve.p is None  # nothing is left to test against
    assert (curve.r2_low, curve.r2_high) == pytest.approx((1, 1))


def test_points_on_a_parabola_give_it_back():
    curve = subgroup_curve(X, 0.5 * X**2 + 0.2 * X - 0.1)
    assert curve.quadratic == pytest.approx((0.5, 0.2, -0.1), abs=1e-9)
    assert curve.r2 < 1


def test_the_line_is_that_of_scipy_and_the_curvature_the_t_test_of_its_coefficient():
    noise = np.random.default_rng(0).normal(size=20) * 0.03
    y = (0.4 * X + 0.2 + noise).clip(0, 1)
    curve = subgroup_curve(X, y, n=0)
    line = linregress(X, y)
    assert (curve.slope, curve.intercept, curve.r2) == pytest.approx((line.slope, line.intercept, line.rvalue**2))
    assert curve.r2_low is None
    # F of one added column is t² of its coefficient: of y and x² with what 1 and x explain taken out.
    design = np.stack([np.ones(20), X], 1)
    residual = np.eye(20) - design @ np.linalg.pinv(design)
    partial = linregress(residual @ X**2, residual @ y)
    t2 = partial.rvalue**2 / (1 - partial.rvalue**2) * 17
    from scipy.stats import t

    assert curve.p == pytest.approx(2 * t.sf(t2**0.5, 17), rel=1e-6)


def test_probit_axes_have_no_place_for_0_and_1():
    z = norm.ppf(X)
    straight = subgroup_curve(X, norm.cdf(1.5 * z - 0.3))
    assert straight.probit_r2 == pytest.approx(1)
    assert straight.r2 < 0.999
    ends = subgroup_curve([0, 0.5, 1, 0.8], [0.1, 0.2, 0.9, 1])
    assert (ends.probit_r2, ends.clipped) == (None, 3)
    placed = subgroup_curve([0, 0.5, 1, 0.8], [0.1, 0.2, 0.9, 1], images=(50, 20))
    expected = linregress(norm.ppf([0.01, 0.5, 0.99, 0.8]), norm.ppf([0.1, 0.2, 0.9, 0.975])).rvalue ** 2
    assert placed.probit_r2 == pytest.approx(expected)


def test_the_order_of_models_does_not_matter():
    y = X**2
    order = np.random.default_rng(1).permutation(20)
    one, other = subgroup_curve(X, y, n=0), subgroup_curve(X[order], y[order], n=0)
    assert other.quadratic == pytest.approx(one.quadratic, abs=1e-9)
    assert (other.r2, other.slope) == pytest.approx((one.r2, one.slope))


def test_the_interval_covers_the_true_share():
    """Of 200 draws of 30 models about a line the intervals hold R² of the population, 0.5, nine times in ten or so."""
    draws = np.random.default_rng(2)
    held = 0
    for _ in range(200):
        x = draws.normal(0.5, 0.05, 30)
        y = 0.2 + 0.5 * x + draws.normal(0, 0.025, 30)
        curve = subgroup_curve(x, y, n=200)
        held += curve.r2_low <= 0.5 <= curve.r2_high
    assert held / 200 > 0.85


def test_what_is_not_defined_is_no_number():
    assert subgroup_curve([0.5] * 5, X[:5]).r2 is None
    flat = subgroup_curve(X, [0.5] * 20)
    assert (flat.r2, flat.slope) == (None, pytest.approx(0))
    three = subgroup_curve([0.1, 0.5, 0.9], [0.2, 0.3, 0.9])
    assert three.quadratic is None
    assert 0 < three.r2 < 1
    assert subgroup_curve([0.1, 0.1, 0.9, 0.9], [0.2, 0.3, 0.9, 0.8]).quadratic is None


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        ([0.1, 0.2], [0.1, 0.2], "any two points: it takes 3 models or more, got 2"),
        ([0.1, 0.2, 0.3], [0.1, 0.2], "two accuracies of each model"),
        ([0.1, 0.2, 30], [0.1, 0.2, 0.3], r"in \[0, 1\], got 30"),
        ([0.1, 0.2, np.nan], [0.1, 0.2, 0.3], r"in \[0, 1\], got nan"),
    ],
)
def test_what_is_no_curve_is_refused(x, y, words):
    with pytest.raises(ValueError, match=words):
        subgroup_curve(x, y)


def test_resamples_of_two_points_do_not_count():
    """A line goes through any two points: their R² of 1 would make the interval of few models narrow and high."""
    assert subgroup_curve([0.1, 0.5, 0.9], [0.2, 0.6, 0.3]).r2_low is None  # two thirds of the resamples are of two
    x, y = np.array([0.1, 0.3, 0.5, 0.7, 0.7]), np.array([0.4, 0.1, 0.5, 0.2, 0.2])
    draws = np.random.default_rng(0).integers(5, size=(1000, 5))
    points = [{(x[i], y[i]) for i in rows} for rows in draws]
    values = [linregress(x[r], y[r]).rvalue ** 2 for r, p in zip(draws, points, strict=True) if len(p) > 2]
    curve = subgroup_curve(x, y)
    assert (curve.r2_low, curve.r2_high) == pytest.approx(tuple(np.quantile(values, (0.025, 0.975))))
