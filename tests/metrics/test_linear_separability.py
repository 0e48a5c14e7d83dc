"""Linear separability: chance for one distribution, whole for half-spaces, scikit-learn's cross-validation between."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from kedge import metrics


def drawn(count: int, shift: float, seed: int, width: int = 8) -> torch.Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed)) + shift


def test_two_samples_of_one_distribution_are_at_chance():
    held = 0
    for seed in range(12):
        own = metrics.linear_separability(drawn(150, 0, 2 * seed), drawn(90, 0, 2 * seed + 1), seed)
        held += own.low <= 0.5 <= own.high
        assert abs(own.value - 0.5) < 0.15
    assert held >= 10


def test_half_spaces_are_told_whole_whatever_the_scale():
    a, b = drawn(60, 0, 0), drawn(40, 0, 1)
    a[:, 3], b[:, 3] = a[:, 3].abs() + 1, -b[:, 3].abs() - 1
    for scale in (1.0, 1e-3, 1e4):
        own = metrics.linear_separability(a * scale, b * scale)
        assert (own.value, own.high) == (1, 1)
        assert 0.9 < own.low < 1


def test_agrees_with_cross_validation_of_scikit_learn():
    a, b = drawn(300, 0, 2), drawn(200, 0.4, 3)
    own = metrics.linear_separability(a, b)
    x, y = torch.cat([a, b]).double().numpy(), np.r_[np.zeros(300), np.ones(200)]
    model = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced"))
    predicted = cross_val_predict(model, x, y, cv=StratifiedKFold(5, shuffle=True, random_state=0))
    expected = np.mean([(predicted[y == side] == side).mean() for side in (0, 1)])
    assert own.value == pytest.approx(expected, abs=0.02)
    assert own.low < own.value < own.high
    again, turned = metrics.linear_separability(a, b), metrics.linear_separability(b, a)
    assert own == again
    assert turned.value == pytest.approx(own.value, abs=0.03)


def test_it_is_exactly_chance_for_features_that_say_nothing():
    own = metrics.linear_separability(torch.zeros(20, 3), torch.zeros(30, 3))
    assert own.value == 0.5


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="takes 10 images of each side, got 40 and 9"):
        metrics.linear_separability(drawn(40, 0, 0), drawn(9, 0, 1))
    with pytest.raises(ValueError, match="features are"):
        metrics.linear_separability(drawn(40, 0, 0), drawn(40, 0, 1, 5))
    with pytest.raises(ValueError, match="0 and 1 images are not finite"):
        metrics.linear_separability(drawn(40, 0, 0), drawn(40, 0, 1).index_fill(0, torch.tensor([3]), torch.inf))
