import numpy as np
import pytest
import relplot
import scipy.integrate
import scipy.optimize
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import metrics


def smoothed(f: np.ndarray, y: np.ndarray, sigma: float, points: int = 2001) -> float:
    """smECE_σ by its definition: the residuals under a Gaussian and its mirror images at 0 and 1, integrated."""
    t = np.linspace(0, 1, points)[:, None]
    kernel = sum(np.exp(-(((t - 2 * k - s * f) / sigma) ** 2) / 2) for k in range(-4, 5) for s in (-1, 1))
    return np.trapezoid(np.abs(kernel @ (y - f) / (sigma * np.sqrt(2 * np.pi) * len(f))), t[:, 0])


def by_definition(f: np.ndarray, y: np.ndarray) -> float:
    low, high = 2e-3, 1.0
    for _ in range(18):
        middle = (low + high) / 2
        low, high = (middle, high) if smoothed(f, y, middle) > middle else (low, middle)
    return (low + high) / 2 if low > 2e-3 else 0.0


def draw(n: int, kind: str, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    f = {
        "calibrated": lambda: rng.beta(8, 1.5, n),
        "uniform": lambda: rng.random(n),
        "over": lambda: rng.beta(5, 1, n),
        "ends": lambda: rng.choice([0.0, 1.0, 0.5, 0.9999, 1 / 3], n),
        "saturated": lambda: np.ones(n),
    }[kind]()
    chance = {"over": f * 0.7, "saturated": f * 0.9}.get(kind, f)
    return f, (rng.random(n) < chance).astype(float)


def ours(f: np.ndarray, y: np.ndarray) -> float:
    return float(metrics.smooth_error(torch.from_numpy(f), torch.from_numpy(y)))


@pytest.mark.parametrize("kind", ["calibrated", "uniform", "over", "ends", "saturated"])
@pytest.mark.parametrize("n", [1, 2, 17, 60])
def test_the_grid_agrees_with_the_exact_sum(kind: str, n: int):
    f, y = draw(n, kind, seed=n)
    expected = by_definition(f, y)
    assert ours(f, y) == pytest.approx(expected, abs=2e-5 if expected else 2e-3)


def by_quadrature(f: np.ndarray, y: np.ndarray) -> float:
    """The fixed point of smECE_σ, with adaptive quadrature between the places where a kernel is."""

    def gap(sigma: float) -> float:
        mirrored = np.concatenate([s * f + 2 * k for k in range(-2, 3) for s in (-1, 1)])
        residuals = np.tile(y - f, 10) / len(f)

        def value(t: float) -> float:
            return abs(residuals @ scipy.stats.norm.pdf(t, mirrored, sigma))

        places = np.unique(np.clip(np.concatenate([f - sigma, f, f + sigma]), 0, 1))[1:-1]
        return scipy.integrate.quad(value, 0, 1, points=places, limit=500)[0] - sigma

    return scipy.optimize.brentq(gap, 0.01, 1, xtol=1e-7)


def test_confidences_of_exactly_one_count_whole():
    """Of twenty answers twelve are given with confidence 1, a mass that relplot counts without its mirror image."""
    f = np.array([1.0] * 12 + [0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.6, 0.5])
    y = np.array([1.0] * 9 + [0.0] * 3 + [1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0, 1.0])
    exact = by_quadrature(f, y)
    assert ours(f, y) == pytest.approx(exact, abs=1e-5)
    assert by_definition(f, y) == pytest.approx(exact, abs=1e-4)
    assert abs(relplot.smECE(f, y) - exact) > 0.01


@pytest.mark.parametrize(("kind", "n"), [("calibrated", 20_000), ("uniform", 3000), ("over", 3000), ("over", 200)])
def test_agrees_with_relplot_inside_the_unit_interval(kind: str, n: int):
    # Its mesh has steps of 0.005 and more, and it halves a mass that lies exactly at 0 or 1.
    f, y = draw(n, kind)
    assert ours(f, y) == pytest.approx(relplot.smECE(f, y), abs=1e-3)


def test_known_values():
    # One kernel far from the ends integrates to 1, so the error is the residual itself.
    assert ours(np.full(10, 0.5), np.ones(10)) == pytest.approx(0.5, abs=1e-4)
    assert ours(np.ones(8), np.zeros(8)) == pytest.approx(1, abs=1e-4)
    assert ours(np.array([0.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx(0, abs=1e-5)
    assert ours(np.ones(1), np.ones(1)) == pytest.approx(0, abs=1e-5)
    assert ours(np.zeros(3), np.ones(3)) == pytest.approx(1, abs=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 1, width=32) | st.sampled_from([0.0, 1.0, 0.5]), st.booleans()), min_size=1, max_size=50
    ),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_bounds_and_order(rows: list[tuple[float, bool]], dtype: torch.dtype):
    f, y = torch.tensor([r[0] for r in rows], dtype=dtype), torch.tensor([r[1] for r in rows])
    value = float(metrics.smooth_error(f, y))
    # Never below the overall gap, and never above the mean distance of outcome and confidence.
    assert abs(float((y.double() - f.double()).mean())) - 1e-5 <= value
    assert value <= float((y.double() - f.double()).abs().mean()) + 1e-3
    assert float(metrics.smooth_error(f.flip(0), y.flip(0))) == pytest.approx(value, abs=1e-6)


def test_resampled_is_that_of_the_resample():
    f, y = draw(300, "over")
    confidence, correct = torch.from_numpy(f), torch.from_numpy(y).bool()
    index = torch.randint(300, (4, 300), generator=torch.Generator().manual_seed(0))
    weights = torch.stack([torch.bincount(i, minlength=300) for i in index]).float()
    found = metrics.resampled_smooth_error(confidence, correct, weights)
    assert found.shape == (4,)
    for i, value in zip(index, found.tolist(), strict=True):
        assert value == pytest.approx(ours(f[i], y[i]), abs=2e-5)


@pytest.mark.parametrize("size", [20, 300, 4000])
@pytest.mark.parametrize("kind", ["calibrated", "over", "even", "wrong"])
def test_resamples_are_near_their_error_on_a_fine_grid(size: int, kind: str, monkeypatch):
    """However narrow the kernel, with far less work than the fine grid takes."""
    generator = torch.Generator().manual_seed(size)
    confidence = 1 - 0.9 * torch.rand(size, generator=generator) ** 2
    if kind == "even":  # of a whole number of images that are all answered alike, nothing is left to smooth
        confidence, right = torch.full((size,), 0.5), torch.arange(size) % 2 == 0
    else:
        share = {"calibrated": confidence, "over": confidence - 0.1, "wrong": torch.zeros(size)}[kind]
        right = torch.rand(size, generator=generator) < share
    weights = next(iter(metrics.resamples(size, 40, seed=1)))
    transform, values = torch.fft.irfft, []

    def counted(spectrum: torch.Tensor, n: int) -> torch.Tensor:
        values.append(n)
        return transform(spectrum, n=n)

    monkeypatch.setattr(torch.fft, "irfft", counted)
    found = metrics.resampled_smooth_error(confidence, right, weights)
    coarse, values[:] = sum(values), []
    for row, value in zip(weights.long(), found.tolist(), strict=True):
        again = torch.repeat_interleave(torch.arange(size), row)
        assert value == pytest.approx(float(metrics.smooth_error(confidence[again], right[again])), abs=2e-4)
    assert coarse < sum(values) / len(weights) / 3


@pytest.mark.parametrize("bad", [[], [0.5, float("nan")], [1.5], [-0.1]])
def test_what_is_no_confidence_is_refused(bad: list[float]):
    with pytest.raises(ValueError, match=r"\[N\]|\[0, 1\]"):
        metrics.smooth_error(torch.tensor(bad), torch.ones(len(bad)))
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        metrics.smooth_error(torch.rand(2), torch.ones(3))
    with pytest.raises(ValueError, match="softmax"):
        metrics.smooth_calibration_error(torch.randn(5, 3) * 4, torch.zeros(5, dtype=torch.long))
