import pytest
import torch
from sklearn.metrics import brier_score_loss
from torch import nn

from kedge.objectives import Anchored, Brier, CrossEntropy

IMAGES = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(5, (20,), generator=torch.Generator().manual_seed(2))


def fixed(logits):
    return lambda images: logits


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


def test_the_published_values():
    probs = torch.tensor([[0.7, 0.2, 0.1]])
    assert float(Brier()(fixed(probs.log()), IMAGES[:1], torch.tensor([0]))) == pytest.approx(0.14, abs=1e-6)
    uniform = torch.zeros(1, 10)
    assert float(Brier()(fixed(uniform), IMAGES[:1], torch.tensor([3]))) == pytest.approx(0.9, abs=1e-6)


def test_it_is_the_brier_score_of_scikit_learn(net):
    probs = net(IMAGES).detach().double().softmax(1).numpy()
    expected = brier_score_loss(TARGETS, probs, labels=range(5), scale_by_half=False)
    assert float(Brier()(net, IMAGES, TARGETS).detach()) == pytest.approx(expected, rel=1e-6)


def test_it_is_bounded_and_a_confidently_wrong_image_has_no_gradient():
    logits = torch.tensor([[40.0, 0.0, 0.0]], requires_grad=True)
    loss = Brier()(fixed(logits), IMAGES[:1], torch.tensor([1]))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(2.0)
    assert float(logits.grad.abs().max()) < 1e-12


def test_it_is_proper():
    """Under true probabilities q the expected loss is least at p = q: its gradient in the logits vanishes there."""
    q = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64)
    logits = q.log().requires_grad_()
    expected = sum(q[0, c] * Brier()(fixed(logits), IMAGES[:1], torch.tensor([c])) for c in range(3))
    expected.backward()
    assert float(logits.grad.abs().max()) < 1e-12


def test_soft_targets_and_labels_are_the_same_thing(net):
    soft = nn.functional.one_hot(TARGETS, 5).float()
    assert torch.equal(Brier()(net, IMAGES, TARGETS), Brier()(net, IMAGES, soft))


def test_weights_count_as_in_cross_entropy():
    """Of an image each: the weighted loss is the weight of its class times the loss without weights."""
    weights = [0.5, 1.0, 2.0, 1.0, 0.5]
    logits = torch.randn(1, 5, generator=torch.Generator().manual_seed(3))
    for label in range(5):
        target = torch.tensor([label])
        for objective in (Brier, CrossEntropy):
            plain = objective()(fixed(logits), IMAGES[:1], target)
            weighted = objective(class_weights=weights)(fixed(logits), IMAGES[:1], target)
            assert float(weighted) == pytest.approx(weights[label] * float(plain), rel=1e-5)


def test_half_precision_is_widened():
    logits = torch.randn(4, 5, generator=torch.Generator().manual_seed(3)).bfloat16()
    loss = Brier()(fixed(logits), IMAGES[:4], TARGETS[:4])
    assert loss.dtype == torch.float32
    assert torch.equal(loss, Brier()(fixed(logits.float()), IMAGES[:4], TARGETS[:4]))


def test_it_nests_in_anchored():
    import kedge

    model = kedge.anchor(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), references=IMAGES[:4])
    loss = Anchored(Brier(), alpha=0.5)(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)


def test_weights_that_are_none_are_refused():
    with pytest.raises(ValueError, match="-1"):
        Brier(class_weights=[1.0, -1.0])
