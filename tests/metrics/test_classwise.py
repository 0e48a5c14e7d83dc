import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import brier_score_loss

from kedge import metrics
from kedge.metrics import _classwise as classwise

sets = st.tuples(st.integers(1, 60), st.integers(1, 6), st.integers(1, 20), st.integers(0, 999), st.booleans())


def random_set(n: int, classes: int, seed: int, coarse: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(n, classes, generator=generator)).softmax(dim=1)
    if coarse:  # many ties, exact zeros and ones
        probs = torch.nn.functional.one_hot(probs.argmax(1), classes).float()
    return probs, torch.randint(classes, (n,), generator=generator)


def members(column: np.ndarray, bins: int) -> list[np.ndarray]:
    """Positions in each of the bins ((m-1)/M, m/M], those of 0 in the first."""
    place = [next(m for m in range(bins) if p <= (m + 1) / bins or m == bins - 1) for p in column]
    return [np.flatnonzero(np.array(place) == m) for m in range(bins)]


@settings(max_examples=40, deadline=None)
@given(sets)
def test_classwise_error_is_the_mean_of_one_class_against_the_rest(drawn):
    n, classes, bins, seed, coarse = drawn
    probs, labels = random_set(n, classes, seed, coarse)
    p, y = probs.double().numpy(), labels.numpy()
    errors = []
    for c in range(classes):
        inside = [i for i in members(p[:, c], bins) if len(i)]
        errors.append(sum(len(i) / n * abs(np.mean(y[i] == c) - p[i, c].mean()) for i in inside))
    found = metrics.classwise_calibration_error(probs, labels, bins)
    assert float(found) == pytest.approx(np.mean(errors), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(sets)
def test_brier_parts_are_their_definitions_and_sum_to_the_score(drawn):
    n, classes, bins, seed, coarse = drawn
    probs, labels = random_set(n, classes, seed, coarse)
    p, truth = probs.double().numpy(), np.eye(classes)[labels.numpy()]
    reliability = resolution = uncertainty = within = 0.0
    for c in range(classes):
        rate = truth[:, c].mean()
        uncertainty += rate * (1 - rate)
        for i in members(p[:, c], bins):
            if len(i) == 0:
                continue
            mean, seen = p[i, c].mean(), truth[i, c].mean()
            reliability += len(i) / n * (mean - seen) ** 2
            resolution += len(i) / n * (seen - rate) ** 2
            within += np.sum((p[i, c] - mean) ** 2 - 2 * (p[i, c] - mean) * (truth[i, c] - seen)) / n
    parts = metrics.brier_decomposition(probs, labels, bins)
    assert [float(part) for part in parts] == pytest.approx([reliability, resolution, uncertainty, within], abs=1e-6)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.remainder
    assert float(total) == pytest.approx(float(metrics.brier(probs, labels)), abs=1e-12)


def test_two_classes_against_scikit_learn():
    probs, labels = random_set(500, 2, 0)
    parts = metrics.brier_decomposition(probs, labels)
    total = parts.reliability - parts.resolution + parts.uncertainty + parts.remainder
    assert float(total) == pytest.approx(2 * brier_score_loss(labels, probs[:, 1].numpy()), rel=1e-5)


def test_the_top_prediction_alone():
    probs, labels = random_set(400, 5, 1)
    confidence, predicted = probs.max(1)
    correct = predicted == labels
    score = (confidence - correct.float()).square().double().mean()
    parts = metrics.brier_parts(metrics.bin_sums(confidence, correct)[:, None], score)
    rate = float(correct.double().mean())
    assert float(parts.uncertainty) == pytest.approx(rate * (1 - rate))
    assert float(parts.reliability - parts.resolution + parts.uncertainty + parts.remainder) == pytest.approx(
        brier_score_loss(correct, confidence.numpy()), rel=1e-5
    )


def test_one_class_and_perfect_answers():
    one = metrics.brier_decomposition(torch.ones(3, 1), torch.zeros(3, dtype=torch.long))
    assert [float(part) for part in one] == [0, 0, 0, 0]
    labels = torch.tensor([0, 1, 1, 2])
    sure = metrics.brier_decomposition(torch.eye(3)[labels], labels)
    assert float(sure.reliability) == 0
    assert float(sure.resolution) == pytest.approx(float(sure.uncertainty)) == pytest.approx(0.625)
    assert float(metrics.classwise_calibration_error(torch.eye(3)[labels], labels)) == 0


@settings(max_examples=25, deadline=None)
@given(sets)
def test_resampled_sums_are_those_of_the_resample(drawn):
    n, classes, bins, seed, coarse = drawn
    probs, labels = random_set(n, classes, seed, coarse)
    index = torch.randint(n, (3, n), generator=torch.Generator().manual_seed(seed))
    weights = torch.stack([torch.bincount(i, minlength=n) for i in index]).float()
    found = classwise.class_resampler(probs, labels, bins)(weights)
    for r, i in enumerate(index):
        expected = classwise.class_sums(probs[i], labels[i], bins)
        torch.testing.assert_close(found[:, r].double(), expected, atol=2e-4, rtol=1e-5)


def test_many_classes_in_pieces(monkeypatch):
    probs, labels = random_set(50, 6, 2)
    whole = classwise.class_sums(probs, labels)
    resampled = classwise.class_resampler(probs, labels)(torch.ones(1, 50))
    monkeypatch.setattr(classwise, "_AT_ONCE", 6 * 7)
    torch.testing.assert_close(classwise.class_sums(probs, labels), whole)
    torch.testing.assert_close(classwise.class_resampler(probs, labels)(torch.ones(1, 50)), resampled)


@pytest.mark.parametrize("function", [metrics.classwise_calibration_error, metrics.brier_decomposition])
def test_bad_input_is_said(function):
    with pytest.raises(ValueError, match="softmax"):
        function(torch.randn(5, 3) * 4, torch.zeros(5, dtype=torch.long))
    with pytest.raises(ValueError, match="no samples"):
        function(torch.zeros(0, 3), torch.zeros(0, dtype=torch.long))
