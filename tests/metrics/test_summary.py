import numpy as np
import pytest
import torch

from kedge import metrics

DIRECT = {
    "nll": metrics.nll,
    "brier": metrics.brier,
    "ece": metrics.calibration_error,
    "ece_mass": lambda p, y: metrics.calibration_error(p, y, binning="mass"),
    "ece_classwise": metrics.classwise_calibration_error,
    "rmsce": lambda p, y: metrics.calibration_error(p, y, norm="l2"),
    "mce": lambda p, y: metrics.calibration_error(p, y, norm="max"),
    "smooth_ece": metrics.smooth_calibration_error,
    "brier_reliability": lambda p, y: metrics.brier_decomposition(p, y).reliability,
    "brier_resolution": lambda p, y: metrics.brier_decomposition(p, y).resolution,
    "brier_uncertainty": lambda p, y: metrics.brier_decomposition(p, y).uncertainty,
}


def sample(n: int = 400, classes: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(n, classes, generator=generator)).softmax(dim=1)
    return probs, torch.multinomial(probs.sqrt(), 1, generator=generator)[:, 0]


def test_every_value_is_that_of_its_function():
    probs, labels = sample()
    found = metrics.calibration_summary(probs, labels, resamples=50)
    assert list(found) == list(DIRECT)
    for name, (value, low, high) in found.items():
        assert value == pytest.approx(float(DIRECT[name](probs, labels)), abs=1e-6), name
        assert 0 <= low <= value <= high, name


def test_intervals_are_those_of_a_loop_over_resamples():
    probs, labels = sample(120, 3)
    found = metrics.calibration_summary(probs, labels, resamples=60, seed=4)
    rows = torch.cat(list(metrics.resamples(120, 60, seed=4))).long()
    for name, function in DIRECT.items():
        if name in CROSS_FITTED:
            continue  # below
        draws = []
        for row in rows:
            index = torch.repeat_interleave(torch.arange(120), row)
            draws.append(float(function(probs[index], labels[index])))
        value = float(function(probs, labels))
        last, first = np.quantile(draws, [0.975, 0.025])
        top = {"nll": np.inf, "brier": 2, "brier_reliability": 2}.get(name, 1)
        expected = max(min(2 * value - last, value), 0), min(max(2 * value - first, value), top)
        assert found[name][1:] == pytest.approx(expected, abs=2e-4), name


CROSS_FITTED = ("ece", "ece_mass", "smooth_ece")


def test_intervals_of_calibration_errors_lie_about_the_error_without_bias():
    probs, labels = sample(2000, 3)
    confidence, predicted = probs.max(dim=1)
    found = metrics.calibration_summary(probs, labels, resamples=2000, seed=4)
    splits = metrics.halves(2000, seed=4)
    for name, fitted in (
        ("ece", metrics.cross_fitted_error(confidence, predicted == labels, splits=splits)),
        ("ece_mass", metrics.cross_fitted_error(confidence, predicted == labels, binning="mass", splits=splits)),
        ("smooth_ece", metrics.cross_fitted_smooth_error(confidence, predicted == labels, splits)),
    ):
        value, low, high = found[name]
        reach = 1.96 * float(fitted.influence.std()) / 2000**0.5  # the normal interval of a mean
        assert low == pytest.approx(min(float(fitted.value) - reach, value), abs=0.1 * reach), name
        assert high == pytest.approx(max(float(fitted.value) + reach, value), abs=0.1 * reach), name


def test_the_interval_of_a_calibrated_model_holds_zero():
    generator = torch.Generator().manual_seed(0)
    held = dict.fromkeys(CROSS_FITTED, 0)
    for seed in range(20):
        confidence = 0.5 + 0.5 * torch.rand(1000, generator=generator)
        correct = torch.rand(1000, generator=generator) < confidence
        found = metrics.column_summary(confidence, correct, confidence, confidence, resamples=100, seed=seed)
        for name in held:
            held[name] += found[name][1] == 0
    assert min(held.values()) >= 17


def test_without_resamples_and_from_columns():
    probs, labels = sample()
    bare = metrics.calibration_summary(probs, labels, resamples=0)
    assert all(low is None and high is None for _, low, high in bare.values())
    confidence, predicted = probs.max(1)
    nll = -probs.gather(1, labels[:, None])[:, 0].log()
    brier = (probs - torch.nn.functional.one_hot(labels, 4)).square().sum(1)
    columns = metrics.column_summary(confidence, predicted == labels, nll, brier, resamples=40)
    whole = metrics.calibration_summary(probs, labels, resamples=40)
    assert list(columns) == ["nll", "brier", "ece", "ece_mass", "rmsce", "mce", "smooth_ece"]
    for name, estimate in columns.items():
        assert estimate == pytest.approx(whole[name], abs=1e-5)


@pytest.mark.parametrize(
    ("probs", "labels"),
    [
        (torch.ones(5, 1), torch.zeros(5, dtype=torch.long)),
        (torch.tensor([[0.3, 0.7]]), torch.tensor([1])),
        (torch.eye(3)[[0, 1, 2, 0]], torch.tensor([0, 1, 2, 1])),
        (torch.full((6, 4), 0.25), torch.arange(6) % 4),
    ],
)
def test_one_class_one_sample_certainty_and_ties_have_finite_values(probs, labels):
    for value, low, high in metrics.calibration_summary(probs, labels, bins=20, resamples=20).values():
        assert all(np.isfinite([value, low, high]))
        assert 0 <= low <= value <= high


def test_bad_input_is_said():
    with pytest.raises(ValueError, match="softmax"):
        metrics.calibration_summary(torch.randn(5, 3) * 4, torch.zeros(5, dtype=torch.long))


@pytest.mark.slow
def test_many_classes_and_many_resamples_in_reasonable_time():
    import time

    probs, labels = sample(10_000, 10)
    start = time.perf_counter()
    found = metrics.calibration_summary(probs, labels)
    assert time.perf_counter() - start < 60  # about 6 s on one free core
    assert found["ece"][1] > 0.01
