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


def textbook_error(f: np.ndarray, hit: np.ndarray, members: list[np.ndarray], norm: str) -> float:
    """ECE, root mean square and largest error of bins given as lists of positions."""
    filled = [i for i in members if len(i)]
    gaps = np.array([abs(f[i].mean() - hit[i].mean()) for i in filled])
    share = np.array([len(i) / len(f) for i in filled])
    return {"l1": share @ gaps, "l2": np.sqrt(share @ gaps**2), "max": gaps.max()}[norm]


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


@pytest.mark.parametrize("norm", ["l1", "l2", "max"])
def test_agrees_with_torchmetrics_away_from_one(norm: str):
    from torchmetrics.functional.classification import multiclass_calibration_error

    probs, labels = random_probs(500, 5, seed=1)
    theirs = multiclass_calibration_error(probs, labels, num_classes=5, n_bins=15, norm=norm)
    assert float(metrics.calibration_error(probs, labels, norm=norm)) == pytest.approx(float(theirs), abs=1e-5)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 60),
    bins=st.integers(1, 25),
    seed=st.integers(0, 999),
    norm=st.sampled_from(["l1", "l2", "max"]),
)
def test_bins_of_equal_mass_are_consecutive_shares_of_the_sorted_set(n: int, bins: int, seed: int, norm: str):
    rng = np.random.default_rng(seed)
    f, hit = rng.random(n), rng.random(n) < 0.6
    order = np.argsort(f)
    members = [order[[i for i in range(n) if i * bins // n == m]] for m in range(bins)]
    assert max(map(len, members)) - min(map(len, members)) <= 1
    sums = metrics.bin_sums(torch.from_numpy(f), torch.from_numpy(hit), bins, "mass")
    assert sums[0].tolist() == [len(i) for i in members]
    assert float(metrics.binned_error(sums, norm)) == pytest.approx(textbook_error(f, hit, members, norm), abs=1e-9)


def test_equal_confidences_share_a_bin_of_equal_mass_whatever_their_order():
    confidence = torch.tensor([0.4, 1.0, 1.0, 1.0, 1.0, 0.4])
    correct = torch.tensor([True, True, False, True, True, False])
    sums = metrics.bin_sums(confidence, correct, 3, "mass")
    # The tie at 0.4 begins at 0 of 6 and the one at 1 at 2 of 6: the third bin is empty.
    assert sums[0].tolist() == [2, 4, 0]
    for seed in range(5):
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(metrics.bin_sums(confidence[order], correct[order], 3, "mass"), sums)
    assert float(metrics.binned_error(sums)) == pytest.approx(2 / 6 * 0.1 + 4 / 6 * 0.25)


def test_more_bins_than_samples_and_a_single_sample():
    probs, labels = torch.tensor([[0.2, 0.8]]), torch.tensor([1])
    for norm in ("l1", "l2", "max"):
        for binning in ("width", "mass"):
            found = metrics.calibration_error(probs, labels, bins=100, norm=norm, binning=binning)
            assert float(found) == pytest.approx(0.2, abs=1e-6)


def test_no_samples_have_no_error_and_unknown_ways_are_said():
    for norm in ("l1", "l2", "max"):
        assert bool(metrics.binned_error(torch.zeros(3, 5), norm).isnan())
    probs, labels = random_probs(5, 3, seed=0)
    with pytest.raises(ValueError, match="norm must be one of l1, l2, max"):
        metrics.calibration_error(probs, labels, norm="l3")
    with pytest.raises(ValueError, match="binning must be one of width, mass"):
        metrics.calibration_error(probs, labels, binning="equal")
    with pytest.raises(ValueError, match="bins must be at least 1"):
        metrics.calibration_error(probs, labels, bins=0)


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
    assert diagram["low"][:3] == diagram["high"][:3] == [None, None, None]
    assert (diagram["low"][3], diagram["high"][3]) == metrics.accuracy_interval(1, 2)


@pytest.mark.parametrize("size", [1, 64, 333, 20_000])
def test_a_perfectly_calibrated_classifier_reads_near_zero_whatever_the_batch_size(size: int):
    rng = np.random.default_rng(0)
    count = 20_000 if size > 1 else 2000  # one by one takes long
    confidence = rng.beta(8, 1.5, count)
    correct = rng.random(count) < confidence
    probs = np.repeat((1 - confidence)[:, None] / 19, 20, 1)
    top = rng.integers(20, size=count)
    probs[np.arange(count), top] = confidence
    probs, labels = torch.from_numpy(probs), torch.from_numpy((top + ~correct) % 20)
    found = {}
    for made in (metrics.ECE(), metrics.SmoothECE(), metrics.EqualMassECE()):
        for p, y in zip(probs.split(size), labels.split(size), strict=True):
            made.update(p, y)
        found[type(made).__name__] = float(made.compute())
    assert found["ECE"] == pytest.approx(float(metrics.calibration_error(probs, labels)), abs=1e-9)
    assert found["SmoothECE"] == pytest.approx(float(metrics.smooth_calibration_error(probs, labels)), abs=1e-9)
    if count == 20_000:
        assert all(error <= 0.012 for error in found.values()), found


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


@pytest.mark.parametrize(
    ("confidence", "correct", "words"),
    [
        (torch.tensor([0.5, 3.2]), torch.tensor([True, False]), r"in \[0, 1\]"),
        (torch.tensor([0.5, torch.nan]), torch.tensor([True, False]), r"in \[0, 1\]"),
        (torch.tensor([0.5, -0.1]), torch.tensor([True, False]), r"in \[0, 1\]"),
        (torch.tensor([0.5, 0.6]), torch.tensor([3, 0]), "bool or 0/1"),
        (torch.tensor([0.5, 0.6]), torch.tensor([True]), r"\[2\] and \[1\]"),
        (torch.full((2, 3), 1 / 3), torch.ones(2, 3).bool(), r"\[2, 3\]"),
    ],
)
def test_functions_of_confidences_refuse_what_their_siblings_do(confidence, correct, words):
    weights = torch.ones(2, len(confidence))
    for call in (
        metrics.smooth_error,
        metrics.bin_sums,
        lambda f, hit: metrics.bin_sums(f, hit, binning="mass"),
        lambda f, hit: metrics.resampled_error(f, hit, weights),
        lambda f, hit: metrics.resampled_smooth_error(f, hit, weights),
    ):
        with pytest.raises(ValueError, match=words):
            call(confidence, correct)


def test_sums_of_no_samples_are_zero():
    assert not metrics.bin_sums(torch.zeros(0), torch.zeros(0).bool()).any()
