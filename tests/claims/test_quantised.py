import pytest
import torch
from torch import nn

from kedge.claims._quantised import adaquant, allocated, quantised, random_allocations, rounded, widest
from kedge.metrics import prediction_difference


def test_eight_bits_of_three_weights():
    weight = torch.tensor([[-1.0, 0.5, 0.004]])
    expected = torch.tensor([[-1, 64 / 127, 1 / 127]])
    torch.testing.assert_close(rounded(weight, widest(weight), 8), expected)
    torch.testing.assert_close(rounded(weight, widest(weight), 32), weight)


def test_fitting_the_output_beats_rounding_the_weights():
    """W = (.4, .4), unit steps, x = (1, 1): the nearest (0, 0) is off by .64, the best (1, 0) by .04."""
    inputs, largest = torch.ones(1, 2), torch.ones(1)
    weight = torch.tensor([[0.4, 0.4]])
    target = inputs @ weight.T
    assert float((inputs @ rounded(weight, largest, 2).T - target).square().sum()) == pytest.approx(0.64)
    tried = [torch.tensor([[a, b]]) for a in (-1.0, 0.0, 1.0) for b in (-1.0, 0.0, 1.0)]
    assert min(float((inputs @ each.T - target).square().sum()) for each in tried) == pytest.approx(0.04)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 5)
    return nn.Sequential(*layers).eval(), torch.rand(64, 1, 8, 8)


def test_layers_fitted_to_their_outputs_put_out_more_of_them(network):
    net, images = network
    models = quantised(net, [2, 2]), adaquant(net, 2, images, steps=100)
    with torch.no_grad():
        plain, fitted = (each(images) for each in models)
        truth = net(images)
    assert float((fitted - truth).square().mean()) < 0.7 * float((plain - truth).square().mean())


def test_bits_are_within_the_mean_and_the_best_of_all(network):
    net, images = network
    sizes, logits = [36, 320], net(images).detach()
    chosen = allocated(net, 4.5, images)
    assert sum(s * b for s, b in zip(sizes, chosen, strict=True)) <= 4.5 * sum(sizes)
    assert chosen == (8, 4)
    for bits in random_allocations(net, 4.5, 5, torch.Generator().manual_seed(0)):
        assert bits == (8, 4)  # the only one that is full
    differences = [float(prediction_difference(logits, quantised(net, [b, b])(images).detach())) for b in (2, 4, 8)]
    assert differences == sorted(differences, reverse=True)
    assert differences[-1] < 1e-3
