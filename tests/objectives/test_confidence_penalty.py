import pytest
import torch
from scipy.stats import entropy
from torch import nn

from kedge.objectives import ConfidencePenalty, CrossEntropy


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


IMAGES = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(5, (20,), generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("weights", [None, [0.5, 1.0, 2.0, 1.0, 0.2]])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_cross_entropy_less_the_entropy(net, weights, smoothing):
    ours = ConfidencePenalty(0.3, smoothing, weights)(net, IMAGES, TARGETS)
    probs = net(IMAGES).detach().double().softmax(1).numpy()
    plain = CrossEntropy(smoothing, weights)(net, IMAGES, TARGETS).detach()
    expected = float(plain) - 0.3 * entropy(probs, axis=1).mean()
    assert float(ours.detach()) == pytest.approx(expected, rel=1e-5)
    assert torch.equal(ConfidencePenalty(0.0)(net, IMAGES, TARGETS), CrossEntropy()(net, IMAGES, TARGETS))


def test_excluded_classes_add_nothing():
    logits = torch.tensor([[0.0, 1.0, -torch.inf]]).repeat(2, 1).requires_grad_()
    loss = ConfidencePenalty(0.3)(lambda images: logits, IMAGES[:2], torch.tensor([0, 1]))
    loss.backward()
    two = torch.tensor([[0.0, 1.0]]).repeat(2, 1).requires_grad_()
    expected = ConfidencePenalty(0.3)(lambda images: two, IMAGES[:2], torch.tensor([0, 1]))
    expected.backward()
    assert torch.allclose(loss, expected)
    assert torch.allclose(logits.grad[:, :2], two.grad)


def test_a_negative_weight_is_refused():
    with pytest.raises(ValueError, match="0 or more"):
        ConfidencePenalty(-0.1)
