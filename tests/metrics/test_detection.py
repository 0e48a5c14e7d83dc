import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from kedge import metrics

scores = st.lists(st.integers(-3, 3), min_size=1, max_size=60)  # few values: many ties


@settings(max_examples=80, deadline=None)
@given(inside=scores, outside=scores)
def test_agrees_with_scikit_learn_with_ties(inside: list[int], outside: list[int]):
    truth = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    values = np.r_[inside, outside]
    ours = torch.tensor(inside).float(), torch.tensor(outside).float()
    assert float(metrics.auroc(*ours)) == pytest.approx(roc_auc_score(truth, values), abs=1e-12)
    fpr, tpr, _ = roc_curve(truth, values, drop_intermediate=False)
    assert float(metrics.fpr95(*ours)) == pytest.approx(fpr[np.argmax(tpr >= 0.95)], abs=1e-12)


@pytest.mark.parametrize("size", [1, 19, 20, 40, 60, 100, 200, 1000])
def test_recall_on_exact_fractions(size: int):
    inside = torch.randperm(size, generator=torch.Generator().manual_seed(size)).float()
    outside = torch.arange(-5, size).float()
    truth = np.r_[np.ones(size), np.zeros(size + 5)]
    fpr, tpr, _ = roc_curve(truth, torch.cat([inside, outside]).numpy(), drop_intermediate=False)
    assert float(metrics.fpr95(inside, outside)) == pytest.approx(fpr[np.argmax(tpr >= 0.95)])


def test_sign_and_positive_class():
    high, low = torch.tensor([2.0, 3.0, 4.0]), torch.tensor([-1.0, 0.0, 1.0])
    assert float(metrics.auroc(high, low)) == 1
    assert float(metrics.auroc(low, high)) == 0
    assert float(metrics.fpr95(high, low)) == 0
    assert float(metrics.fpr95(low, high)) == 1
    assert float(metrics.auroc(high, high)) == 0.5


def test_infinite_scores_rank_and_nan_is_refused():
    assert float(metrics.auroc(torch.tensor([float("inf")]), torch.tensor([float("-inf")]))) == 1
    with pytest.raises(ValueError, match="1 of 2 scores inside are NaN"):
        metrics.auroc(torch.tensor([0.0, float("nan")]), torch.tensor([1.0]))
    with pytest.raises(ValueError, match="outside"):
        metrics.fpr95(torch.tensor([0.0]), torch.tensor([]))


def test_interval_agrees_with_the_bootstrap():
    generator = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(300, generator=generator) + 1, torch.randn(200, generator=generator)
    draws = torch.tensor(
        [
            float(
                metrics.auroc(
                    inside[torch.randint(300, (300,), generator=generator)],
                    outside[torch.randint(200, (200,), generator=generator)],
                )
            )
            for _ in range(600)
        ]
    )
    low, high = metrics.auroc_interval(inside, outside)
    assert low < float(metrics.auroc(inside, outside)) < high
    assert (high - low) == pytest.approx(2 * 1.96 * float(draws.std()), rel=0.12)


def test_interval_of_perfect_separation_is_not_a_point():
    low, high = metrics.auroc_interval(torch.ones(30), torch.zeros(100))
    assert (low, high) == (pytest.approx(0.9), 1.0)
    assert metrics.auroc_interval(torch.ones(1), torch.zeros(5)) == (0, 1)
