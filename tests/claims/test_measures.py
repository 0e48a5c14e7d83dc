"""What the claims about measures of generalisation and about the Rademacher penalty compute, against closed forms."""

import itertools

import pytest
import torch
from scipy.stats import kendalltau

from kedge.claims import generalization_measures, rademacher_penalty
from kedge.claims.generalization_measures import GeneralizationMeasures, Setting, kendall
from kedge.claims.rademacher_penalty import bound, rademacher, signs


def all_signs(count):
    return torch.tensor(list(itertools.product((-1.0, 1.0), repeat=count)), dtype=torch.float64)


def drawn_features(rows, columns, seed=0):
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)).double()


def test_kendalls_tau_is_that_of_scipy():
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        one, other = torch.randint(6, (2, 16), generator=draws).double().tolist()
        assert kendall(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert kendall([1.0] * 4, [1.0, 2.0, 3.0, 4.0]) == 0


def test_random_numbers_have_both_signs_three_times_in_four():
    """Of three independent signs all are alike in two of eight cases."""
    counts = [GeneralizationMeasures().run("random numbers", seed)["measures with both signs"] for seed in range(300)]
    assert sum(counts) / 300 == pytest.approx(5 * 0.75, abs=0.25)  # five standard errors


def test_with_wrong_labels_on_both_sides_the_gap_is_not_negative(monkeypatch):
    """Learnt by heart: nothing is left to learn from half of the labels, and new images keep to the other half."""
    monkeypatch.setattr(generalization_measures, "EPOCHS", 30)
    (_, gap), again = (generalization_measures._trained(Setting(wrong=0.5), 3, 0) for _ in range(2))
    assert gap > 0.2
    assert again[1] == gap


def test_what_is_measured_of_a_network_without_training(monkeypatch):
    """By hand, of the weights that the same seed draws."""
    monkeypatch.setattr(generalization_measures, "EPOCHS", 0)
    measures, _ = generalization_measures._trained(Setting(width=8), 3, 0)
    assert measures[-1] == 64 * 8 + 8 + 8 * 10 + 10
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(generalization_measures.derive_seed(3, "weights", 0))
        first, second = torch.nn.Linear(64, 8), torch.nn.Linear(8, 10)
    singular = [torch.linalg.svdvals(layer.weight.detach()) for layer in (first, second)]
    assert measures[1] == pytest.approx(float(sum(each.square().sum() for each in singular)), rel=1e-4)
    assert measures[2] == pytest.approx(float(sum(each.max().log() for each in singular)), rel=1e-4)


def test_the_penalty_of_two_ones_is_a_half():
    assert float(rademacher(torch.ones(2, 1).double(), all_signs(2))) == 0.5


def test_its_square_is_the_bound_squared_and_it_lies_between_071_and_1_of_it():
    """E‖(1/B) Σ σᵢ hᵢ‖² = (1/B²) Σ ‖hᵢ‖²; the inequalities of Jensen and of Khintchine with the best constant, 1/√2."""
    for seed, shift in itertools.product(range(5), (0.0, 10.0)):  # shifted: nearly the same for all images
        features = drawn_features(8, 3, seed) + shift
        every = all_signs(8)
        square = (every @ features / 8).square().sum(1).mean()
        assert float(square) == pytest.approx(float(features.square().sum() / 64))
        assert float(square.sqrt()) == pytest.approx(float(bound(features)))
        assert 0.5**0.5 <= float(rademacher(features, every) / bound(features)) <= 1
    pair = torch.zeros(8, 3).double()
    pair[:2, 0] = 1.0
    assert float(rademacher(pair, all_signs(8)) / bound(pair)) == pytest.approx(0.5**0.5)  # the least there is


def test_of_orthogonal_features_it_is_the_norm_whatever_the_signs():
    features = torch.linalg.qr(drawn_features(6, 6))[0] * torch.arange(1.0, 7.0)[:, None]
    features.requires_grad_()
    drawn = signs(1, 6, torch.Generator().manual_seed(1)).double()
    (own,) = torch.autograd.grad(rademacher(features, drawn), features)
    assert float(rademacher(features, drawn).detach()) == pytest.approx(float(bound(features).detach()))
    (of_norm,) = torch.autograd.grad(bound(features), features)
    # Along each image's own direction the two pull alike; across, the penalty pulls by signs that average to nothing.
    assert torch.allclose((own * features).sum(1), (of_norm * features).sum(1))


def test_signs_are_fair_and_drawn_by_the_generator():
    one, other = (signs(400, 50, torch.Generator().manual_seed(2)) for _ in range(2))
    assert torch.equal(one, other)
    assert set(one.unique().tolist()) == {-1.0, 1.0}
    assert abs(float(one.mean())) < 0.03


def test_both_penalties_shrink_the_features_and_a_seed_repeats_itself():
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.rand(256, 1, 14, 14, generator=draws), torch.arange(256) % 4
    norms = {}
    for variant in rademacher_penalty.RademacherPenalty.variants[1:]:
        one, other = (rademacher_penalty.pretrained(variant, (images, labels), 0) for _ in range(2))
        assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))
        norms[variant] = rademacher_penalty.split(one)[0](images).detach().norm().item()
    plain, penalised, bounded = norms.values()
    assert penalised < plain
    assert bounded < plain
