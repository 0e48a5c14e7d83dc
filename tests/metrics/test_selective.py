import pytest
import torch

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
