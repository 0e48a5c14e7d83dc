import pytest
import torch
from scipy.stats import bootstrap as scipy_bootstrap

from kedge import metrics
from kedge.metrics import _bootstrap as bootstrap


def test_resamples_are_draws_with_replacement_and_seeded(monkeypatch):
    once = torch.cat(list(metrics.resamples(50, 200, seed=3)))
    assert once.shape == (200, 50)
    assert bool((once.sum(dim=1) == 50).all())
    assert float(once.mean(dim=0).std()) < 0.15
    assert torch.equal(once, torch.cat(list(metrics.resamples(50, 200, seed=3))))
    assert not torch.equal(once, torch.cat(list(metrics.resamples(50, 200, seed=4))))
    monkeypatch.setattr(bootstrap, "_AT_ONCE", 50 * 7)
    assert torch.equal(once, torch.cat(list(metrics.resamples(50, 200, seed=3))))  # block size is no matter


def test_interval_of_a_mean_agrees_with_scipy():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0))
    low, high = metrics.bootstrap_interval(lambda w: w @ values / 400, 400, n=4000).tolist()
    theirs = scipy_bootstrap(
        (values.numpy(),), lambda x, axis: x.mean(axis=axis), method="basic", n_resamples=4000, rng=0
    )
    assert (low, high) == pytest.approx(tuple(theirs.confidence_interval), abs=0.01)


def test_resampled_error_is_the_error_of_the_resample():
    generator = torch.Generator().manual_seed(1)
    confidence, correct = torch.rand(100, generator=generator), torch.rand(100, generator=generator) < 0.6
    index = torch.randint(100, (100,), generator=generator)
    weights = torch.bincount(index, minlength=100).float()[None]
    plain = metrics.binned_error(metrics.bin_sums(confidence[index], correct[index]))
    assert float(metrics.resampled_error(confidence, correct, weights)) == pytest.approx(float(plain), abs=1e-6)


def test_interval_of_the_error_holds_its_value_and_several_statistics_go_at_once():
    generator = torch.Generator().manual_seed(2)
    confidence = torch.rand(500, generator=generator)
    correct = torch.rand(500, generator=generator) < confidence

    def both(weights: torch.Tensor) -> torch.Tensor:
        error = metrics.resampled_error(confidence, correct, weights)
        return torch.stack([error, weights @ correct.float() / 500], dim=1)

    bounds = metrics.bootstrap_interval(both, 500, n=500)
    value = float(metrics.binned_error(metrics.bin_sums(confidence, correct)))
    assert bounds.shape == (2, 2)
    assert float(bounds[0, 0]) <= value <= float(bounds[0, 1]) + 1e-9


def test_interval_covers_a_known_error():
    generator = torch.Generator().manual_seed(5)
    weights = torch.cat(list(metrics.resamples(1000, 300)))
    covered = 0
    for _ in range(60):
        confidence = 0.5 + 0.4 * torch.rand(1000, generator=generator)
        correct = torch.rand(1000, generator=generator) < confidence - 0.1  # every bin is 0.1 too confident
        value = metrics.binned_error(metrics.bin_sums(confidence, correct))
        low, high = metrics.interval(metrics.resampled_error(confidence, correct, weights), value).tolist()
        covered += low <= 0.1 <= high
    assert covered >= 51


def test_nothing_to_draw_from():
    with pytest.raises(ValueError, match="at least one"):
        next(metrics.resamples(0))
