import numpy as np
import pytest
import torch
from scipy.stats import binomtest
from sklearn.metrics import accuracy_score, brier_score_loss, log_loss, top_k_accuracy_score

from kedge import metrics


@pytest.fixture
def sample() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    probs = torch.randn(300, 8, generator=generator, dtype=torch.float64).softmax(dim=1)
    return probs, torch.randint(8, (300,), generator=generator)


def test_against_scikit_learn(sample):
    probs, labels = sample
    assert float(metrics.accuracy(probs, labels)) == accuracy_score(labels, probs.argmax(dim=1))
    assert float(metrics.accuracy(probs, labels, top_k=3)) == top_k_accuracy_score(labels, probs.numpy(), k=3)
    assert float(metrics.nll(probs, labels)) == pytest.approx(log_loss(labels, probs.numpy()), rel=1e-6)


def test_brier_is_the_sum_over_classes(sample):
    probs, labels = sample
    by_hand = np.mean([np.sum((p - np.eye(8)[y]) ** 2) for p, y in zip(probs.numpy(), labels, strict=True)])
    assert float(metrics.brier(probs, labels)) == pytest.approx(by_hand, rel=1e-6)
    binary = probs[:, :2] / probs[:, :2].sum(dim=1, keepdim=True)
    once = brier_score_loss(labels % 2, binary[:, 1].numpy())
    assert float(metrics.brier(binary, labels % 2)) == pytest.approx(2 * once, rel=1e-5)


def test_extremes():
    certain, labels = torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, 1])
    assert float(metrics.brier(certain, labels)) == 1.0
    assert np.isfinite(float(metrics.nll(certain, labels)))
    assert float(metrics.nll(certain[:1], labels[:1])) == 0


def test_top_k_of_a_constant_prediction_gains_nothing_from_ties():
    probs, labels = torch.full((10, 10), 0.1), torch.arange(10)
    assert float(metrics.accuracy(probs, labels, top_k=5)) == 0.5
    with pytest.raises(ValueError, match="11"):
        metrics.accuracy(probs, labels, top_k=11)


@pytest.mark.parametrize(("correct", "total"), [(0, 10), (10, 10), (7, 10), (829, 1000), (1, 1)])
def test_accuracy_interval_is_wilsons(correct: int, total: int):
    theirs = binomtest(correct, total).proportion_ci(method="wilson")
    assert metrics.accuracy_interval(correct, total) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_accuracy_interval_refuses_nonsense():
    with pytest.raises(ValueError, match="11 and 10"):
        metrics.accuracy_interval(11, 10)


def test_nan_is_no_right_answer():
    nan = float("nan")
    rows = torch.tensor([[nan, nan, nan], [0.9, nan, 0.1], [nan, 0.9, 0.1], [0.7, 0.2, 0.1]])
    ranks = metrics.label_rank(rows, torch.tensor([0, 0, 0, 0]))
    assert ranks.tolist() == [3, 1, 3, 0]
