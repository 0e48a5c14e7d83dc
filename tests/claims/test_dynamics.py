"""What the claims about training dynamics compute, against values by hand."""

import pytest
import torch
from scipy.stats import kendalltau

from kedge.claims import lazy_to_rich, margin_weights, one_epoch
from kedge.claims._looped import network
from kedge.claims.generalization_measures import kendall
from kedge.claims.lazy_to_rich import LazyToRich
from kedge.claims.matching_trajectories import remaining
from kedge.claims.xor_clusters import _answers, _drawn, _signs
from kedge.seeds import generator


def test_what_is_left_of_a_way():
    """1 where nothing moved, 0 at its end, a quarter half way, whatever the size of the weights."""
    draws = torch.Generator().manual_seed(0)
    start, end = ({"a": torch.randn(3, 2, generator=draws), "b": torch.randn(4, generator=draws)} for _ in range(2))
    half = {name: (start[name] + end[name]) / 2 for name in start}
    assert float(remaining(start, start, end)) == pytest.approx(1)
    assert float(remaining(end, start, end)) == 0
    assert float(remaining(half, start, end)) == pytest.approx(0.25)
    scaled = [{name: 7 * value for name, value in each.items()} for each in (half, start, end)]
    assert float(remaining(*scaled)) == pytest.approx(0.25)


def test_points_of_xor_clusters():
    centres = 40 * torch.eye(2, 10_000)
    points, labels = _drawn(centres, 200, 0, "train")
    assert labels.unique(return_counts=True)[1].tolist() == [100, 100]
    first, second = points[:, 0] / 40, points[:, 1] / 40
    assert torch.equal(labels, torch.where(first.abs() > second.abs(), 1.0, -1.0))
    assert float(first[labels > 0].mean()) == pytest.approx(0, abs=0.02)  # as many at either end: no line tells them
    assert float(first[labels > 0].abs().mean()) == pytest.approx(1, abs=0.02)
    # Four units along the centres answer as they should.
    weights, outer = torch.cat([centres, -centres]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert torch.equal(_answers("two layers", weights, outer, points), labels)
    assert float(_signs(0).sum()) == 0


def test_a_network_in_the_rich_regime_learns_at_once():
    values = LazyToRich().run("α 0.25", 50)
    assert values["learnt"] < values["grokked"] < 1000
    assert values["least test error"] < 10


def test_the_steps_of_the_lazy_network_are_those_of_autograd(monkeypatch):
    """The measured error after 40 steps against a network written as α (g(w) - g(w₀)) and differentiated."""
    monkeypatch.setattr(lazy_to_rich, "STEPS", 40)
    measured = LazyToRich().run("α 1", 7)
    assert measured == LazyToRich().run("α 1", 7)
    alpha, bend, units = 1.0, 0.25, lazy_to_rich.UNITS
    beta = torch.randn(60, generator=generator(7, "beta"))
    beta *= 60**0.5 / beta.norm()
    inputs = torch.randn(400, 60, generator=generator(7, "train")) / 60**0.5
    targets = (inputs @ beta).square() / 2
    test = torch.randn(1000, 60, generator=generator(7, "test")) / 60**0.5
    first = torch.randn(units, 60, generator=generator(7, "weights"))
    weights = first.clone().requires_grad_()

    def answers(images):
        now, then = (images @ each.T for each in (weights, first))
        return alpha * ((now + bend / 2 * now**2).mean(1) - (then + bend / 2 * then**2).mean(1))

    for _ in range(40):
        loss = (answers(inputs) - targets).square().mean() / 2
        (slope,) = torch.autograd.grad(loss, weights)
        with torch.no_grad():
            weights -= lazy_to_rich.RATE * units / alpha**2 * slope
    with torch.no_grad():
        truth = (test @ beta).square() / 2  # both errors are shares of its variance
        error = 100 * float((answers(inputs) - targets).square().mean() / truth.var())
        missed = 100 * float((answers(test) - truth).square().mean() / truth.var())
    assert measured["least training error"] == pytest.approx(error, rel=1e-3)
    assert measured["least test error"] == pytest.approx(missed, rel=1e-3)


def test_every_image_is_shown_once_an_epoch_and_steps_are_equal():
    steps = set()
    for epochs in one_epoch.EPOCHS.values():
        count = one_epoch.SHOWN // epochs
        places = one_epoch.shown(count, epochs, 3)
        assert torch.equal(places, one_epoch.shown(count, epochs, 3))
        for epoch in places.split(count):
            assert torch.equal(epoch.sort().values, torch.arange(count))
        steps.add(len(places.split(one_epoch.BATCH)))
    assert steps == {125}


def test_margin_weights_by_hand():
    logits = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 5.0], [1.0, 1.0, 0.0]])
    labels = torch.tensor([0, 1, 0])  # margins 2, -3 and 0: median 0, standard deviation of a sample √(57/9)
    spread = (57 / 9) ** 0.5
    up = torch.tensor([1 / (1 + torch.e ** (margin / spread)) for margin in (2, -3, 0)])
    assert torch.allclose(margin_weights.by_margin(logits, labels, -1.0), up / up.mean())
    assert torch.allclose(margin_weights.by_margin(logits, labels, 1.0), (1 - up) / (1 - up).mean())
    assert torch.equal(margin_weights.by_margin(logits, labels, 0.0), torch.ones(3))


def test_an_image_of_weight_0_is_not_learnt_from_and_twice_the_weight_counts_twice():
    draws = torch.Generator().manual_seed(0)
    images, labels = torch.rand(6, 1, 14, 14, generator=draws), torch.tensor([0, 1, 2, 3, 4, 5])
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0, 1.0])
    model = margin_weights.trained(network(1, 14), (images, labels), weights, 1, 2)  # one batch, one step
    start = network(1, 14)
    rows = [0, 1, 1, 3, 4, 5]
    torch.nn.functional.cross_entropy(start(images[rows]), labels[rows]).backward()
    for before, after in zip(start.parameters(), model.parameters(), strict=True):
        assert torch.allclose(after, before - margin_weights.RATE * before.grad, atol=1e-6)


def test_kendalls_tau_is_that_of_scipy():
    draws = torch.Generator().manual_seed(0)
    for _ in range(5):
        one, other = torch.randint(6, (2, 16), generator=draws).double().tolist()
        assert kendall(one, other) == pytest.approx(kendalltau(one, other).statistic)
    assert kendall([1.0] * 4, [1.0, 2.0, 3.0, 4.0]) == 0
