"""What is measured of weights and of features, on networks of a moment."""

import pytest
import torch
from scipy.stats import kurtosis
from torch import nn

from kedge.claims import layers_moved
from kedge.claims.optimizers_quantised import OPTIMIZERS, in_bits, outliers
from kedge.data import TensorSet


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)).eval()


def test_outliers_are_those_of_numpy_and_scipy(network):
    rows = [row for layer in (network[0], network[3]) for row in layer.weight.detach().flatten(1).numpy()]
    ratio, tails = outliers(network)
    assert ratio == pytest.approx(sum(abs(row).max() / abs(row).mean() for row in rows) / len(rows))
    assert tails == pytest.approx(sum(kurtosis(row, fisher=False) for row in rows) / len(rows), rel=1e-5)


def test_one_outlier_is_seen_by_both(network):
    before = outliers(network)
    with torch.no_grad():
        network[3].weight[0, 0] = 100
    assert all(after > was for was, after in zip(before, outliers(network), strict=True))


def test_bits_are_steps_over_the_whole_range_of_a_channel(network):
    small = in_bits(network, 3)
    for layer, own in zip((network[0], network[3]), (small[0], small[3]), strict=True):
        for weights, few in zip(layer.weight.flatten(1), own.weight.flatten(1), strict=True):
            step = weights.abs().max() / 3
            torch.testing.assert_close(few, (weights / step).round() * step)
            assert len(few.unique()) <= 7
    assert not torch.equal(network[0].weight, small[0].weight)
    torch.testing.assert_close(in_bits(network, 24)[0].weight, network[0].weight)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_three_learning_rates_are_those_of_each_optimizer(name):
    rates = [OPTIMIZERS[name]([torch.zeros(1, requires_grad=True)], times).defaults["lr"] for times in (0.3, 1, 3)]
    assert rates[2] == pytest.approx(10 * rates[0]) == pytest.approx(3 * rates[1])


def test_turned_features_are_the_same_to_cka_and_bent_ones_are_not():
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(1)).double()
    assert layers_moved.turned_apart(features, 0) < 1e-9
    assert abs(1 - layers_moved.centred_alignment(features, features.relu())[0]) > 0.1


def test_a_new_head_leaves_the_layers_and_the_other_start_does_not():
    before = layers_moved.started(0)
    tuned, more = (layers_moved.restarted(before, 0, new_head) for new_head in (True, False))
    for name, weights in before.network.state_dict().items():
        assert torch.equal(tuned.network.state_dict()[name], weights) != name.startswith("head")
        assert torch.equal(more.network.state_dict()[name], weights)
    assert torch.equal(layers_moved.started(0).network.head[1].weight, before.network.head[1].weight)
    assert not torch.equal(layers_moved.started(1).network.head[1].weight, before.network.head[1].weight)


def test_training_moves_what_it_trains_and_repeats_itself():
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (80, 1, 14, 14), generator=draws, dtype=torch.uint8)
    images = TensorSet(pixels, torch.arange(80) % 10, [str(i) for i in range(10)])
    one, other = (layers_moved.trained(layers_moved.started(0), images, 3, 0.05, 1).network for _ in range(2))
    assert torch.equal(one.first[0].weight, other.first[0].weight)
    assert not torch.equal(one.first[0].weight, layers_moved.started(0).network.first[0].weight)
    assert not one.training
