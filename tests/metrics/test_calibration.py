import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge import metrics


def textbook_ece(probs: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Guo et al. (2017), equation 3, sample by sample: bin m holds the confidences in ((m-1)/M, m/M]."""
    members: list[list[tuple[float, bool]]] = [[] for _ in range(bins)]
    for row, label in zip(probs.astype(np.float64), labels, strict=True):
        winner = int(row.argmax())
        confidence = row[winner]
        m = next(m for m in range(bins) if confidence <= (m + 1) / bins or m == bins - 1)
        members[m].append((confidence, winner == label))
    error = 0.0
    for inside in members:
        if inside:
            confidences, hits = zip(*inside, strict=True)
            error += len(inside) / len(labels) * abs(np.mean(hits) - np.mean(confidences))
    return error


def random_probs(n: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    probs = (3 * torch.randn(n, classes, generator=generator)).softmax(dim=1)
    return probs, torch.randint(classes, (n,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(1, 80), classes=st.integers(1, 7), bins=st.integers(1, 20), seed=st.integers(0, 999))
def test_agrees_with_the_definition(n: int, classes: int, bins: int, seed: int):
    probs, labels = random_probs(n, classes, seed)
    ours = float(metrics.calibration_error(probs, labels, bins=bins))
    assert ours == pytest.approx(textbook_ece(probs.numpy(), labels.numpy(), bins), abs=1e-9)


def test_agrees_with_torchmetrics_away_from_one():
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, labels = random_probs(500, 5, seed=1)
    theirs = multiclass_calibration_error(probs, labels, num_classes=5, n_bins=15)
    assert float(metrics.calibration_error(probs, labels)) == pytest.approx(float(theirs), abs=1e-5)


def test_confidence_of_exactly_one_is_in_the_last_bin():
    # torchmetrics 1.9 puts the 1.0 in a sixteenth bin of its own and reads 0.525.
    probs = torch.tensor([[1.0, 0.0], [0.95, 0.05]])
    labels = torch.tensor([1, 0])
    assert float(metrics.calibration_error(probs, labels)) == pytest.approx(0.475)


def test_confidence_zero_one_and_edges():
    confidence = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    sums = metrics.bin_sums(confidence, torch.tensor([False, True, True]), bins=2)
    assert sums.tolist() == [[2.0, 1.0], [0.5, 1.0], [1.0, 1.0]]


def test_one_class():
    assert float(metrics.calibration_error(torch.ones(4, 1), torch.zeros(4, dtype=torch.long))) == 0
    assert float(metrics.accuracy(torch.ones(4, 1), torch.zeros(4, dtype=torch.long))) == 1


def test_ties_go_to_the_lower_class():
    probs, labels = torch.full((2, 4), 0.25), torch.tensor([0, 3])
    assert float(metrics.accuracy(probs, labels)) == 0.5
    assert float(metrics.calibration_error(probs, labels)) == pytest.approx(0.25)


def test_empty_bins_are_none_in_the_diagram():
    diagram = metrics.reliability(metrics.bin_sums(torch.tensor([0.9, 0.95]), torch.tensor([True, False]), bins=4))
    assert diagram["edges"] == [0, 0.25, 0.5, 0.75, 1]
    assert diagram["count"] == [0, 0, 0, 2]
    assert diagram["accuracy"] == [None, None, None, 0.5]
    assert diagram["confidence"][3] == pytest.approx(0.925)


def test_perfectly_calibrated_classifier_reads_near_zero():
    generator = torch.Generator().manual_seed(0)
    confidence = torch.from_numpy(np.random.default_rng(0).beta(8, 1.5, 20_000))
    correct = torch.rand(20_000, generator=generator, dtype=torch.float64) < confidence
    sums = metrics.bin_sums(confidence, correct)
    assert float(metrics.binned_error(sums)) <= 0.012
    batches = zip(confidence.split(64), correct.split(64), strict=True)
    pooled = torch.stack([metrics.bin_sums(c, k) for c, k in batches]).sum(dim=0)
    torch.testing.assert_close(pooled, sums)


@pytest.mark.parametrize(
    ("probs", "labels", "words"),
    [
        (torch.randn(8, 3) * 5, torch.zeros(8, dtype=torch.long), "softmax"),
        (torch.full((2, 2), float("nan")), torch.zeros(2, dtype=torch.long), "NaN"),
        (torch.full((2, 2), 0.5), torch.tensor([0, 2]), "label"),
        (torch.full((2, 2), 0.5), torch.tensor([0, -1]), "label"),
        (torch.full((2, 2), 0.5), torch.tensor([0]), r"shape \[2\]"),
        (torch.full((2, 2), 0.5), torch.tensor([0.0, 1.0]), "integer"),
        (torch.full((2,), 0.5), torch.tensor([0, 1]), r"\[B, C\]"),
        (torch.ones(2, 2, dtype=torch.long), torch.tensor([0, 1]), "floating"),
        (torch.zeros(0, 2), torch.zeros(0, dtype=torch.long), "no samples"),
    ],
)
@pytest.mark.parametrize("function", [metrics.calibration_error, metrics.accuracy, metrics.nll, metrics.brier])
def test_bad_input_is_said(function, probs: torch.Tensor, labels: torch.Tensor, words: str):
    with pytest.raises(ValueError, match=words):
        function(probs, labels)


def test_half_precision_probabilities_are_accepted():
    probs, labels = random_probs(200, 50, seed=3)
    full = float(metrics.calibration_error(probs, labels))
    assert float(metrics.calibration_error(probs.bfloat16(), labels)) == pytest.approx(full, abs=0.02)
