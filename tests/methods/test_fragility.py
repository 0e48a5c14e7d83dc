import math

import pytest
import torch
from torch import nn

import kedge
from kedge.metrics.fragility_index import smallest_k
from kedge.objectives import Anchored, CrossEntropy, Fragility, Mixup

IMAGES = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(5, (20,), generator=torch.Generator().manual_seed(2))
LOGITS = 3 * torch.randn(20, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def fixed(logits):
    return lambda images: logits


def losses(logits=LOGITS):
    return nn.functional.cross_entropy(logits, TARGETS, reduction="none")


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5))


def test_of_two_images_it_is_the_formula():
    """Losses of 0 and log 4 and k = 1: log((1 + 4) / 2)."""
    logits = torch.tensor([[60.0, 0.0], [0.0, math.log(3)]], dtype=torch.float64)
    loss = Fragility(1.0)(fixed(logits), IMAGES[:2], torch.tensor([0, 0]))
    assert float(loss) == pytest.approx(math.log(2.5), rel=1e-12)


def test_it_tends_to_the_mean_and_to_the_largest():
    of = {k: float(Fragility(k)(fixed(LOGITS), IMAGES, TARGETS)) for k in (1e6, 10.0, 1.0, 0.1, 1e-3)}
    assert of[1e6] == pytest.approx(float(CrossEntropy()(fixed(LOGITS), IMAGES, TARGETS)), rel=1e-5)
    assert of[1e-3] == pytest.approx(float(losses().max()), abs=1e-3 * math.log(20) + 1e-12)
    assert list(of.values()) == sorted(of.values())


@pytest.mark.parametrize("k", [0.1, 1.0, 5.0])
def test_its_gradient_is_the_softmax_weighted_mean_of_those_of_the_images(k):
    logits = LOGITS.clone().requires_grad_()
    Fragility(k)(fixed(logits), IMAGES, TARGETS).backward()
    weights = (losses() / k).softmax(0)
    single = LOGITS.softmax(1) - nn.functional.one_hot(TARGETS, 5)
    torch.testing.assert_close(logits.grad, weights[:, None] * single)


def test_no_distribution_of_the_images_gains_more():
    """Donsker and Varadhan: it is the largest E_P loss - k KL(P, uniform), taken by P = softmax(loss / k)."""
    k, each = 0.7, losses()
    value = float(Fragility(k)(fixed(LOGITS), IMAGES, TARGETS))

    def gain(p):
        return float(p @ each - k * (p * (p * len(p)).log()).sum())

    assert gain((each / k).softmax(0)) == pytest.approx(value, rel=1e-10)
    draws = torch.distributions.Dirichlet(torch.full((20,), 0.5, dtype=torch.float64))
    torch.manual_seed(0)
    assert all(gain(draws.sample().clamp_min(1e-12)) <= value for _ in range(200))


def test_at_the_index_of_a_target_it_is_the_target():
    """The metric finds the k at which the loss of ranking errors is the target; of cross-entropies it does too."""
    each = losses()
    target = float(each.mean()) + 0.5
    k = float(smallest_k(each, target)[0])
    assert float(Fragility(k)(fixed(LOGITS), IMAGES, TARGETS)) == pytest.approx(target, rel=1e-9)


def test_what_no_answer_takes_away_does_not_count():
    soft = torch.softmax(LOGITS, 1)
    assert float(Fragility(0.3)(fixed(LOGITS), IMAGES, soft)) == pytest.approx(0, abs=1e-9)
    uniform = torch.full((20, 5), 0.2)
    assert float(Fragility(0.3)(fixed(torch.zeros(20, 5)), IMAGES, uniform)) == pytest.approx(0, abs=1e-6)


def test_soft_targets_and_labels_are_the_same_thing():
    soft = nn.functional.one_hot(TARGETS, 5).float()
    for smoothing in (0.0, 0.2):
        objective = Fragility(1.5, smoothing)
        of_soft, of_labels = (objective(fixed(LOGITS), IMAGES, t) for t in (soft, TARGETS))
        torch.testing.assert_close(of_soft, of_labels)


def test_smoothing_is_that_of_cross_entropy_less_its_entropy():
    share = torch.full((5,), 0.04)
    share[0] = 0.84
    entropy = float(-(share * share.log()).sum())
    plain = float(CrossEntropy(0.2)(fixed(LOGITS), IMAGES, TARGETS))
    assert float(Fragility(1e7, 0.2)(fixed(LOGITS), IMAGES, TARGETS)) == pytest.approx(plain - entropy, abs=1e-5)


@pytest.mark.parametrize("size", [1, 3])
def test_small_and_odd_batches_of_one_class(net, size):
    loss = Fragility()(net, IMAGES[:size], torch.zeros(size, dtype=torch.long))
    loss.backward()
    assert torch.isfinite(loss)
    alone = Fragility(0.5)(net, IMAGES[:1], TARGETS[:1])
    torch.testing.assert_close(alone, CrossEntropy()(net, IMAGES[:1], TARGETS[:1]))


def test_half_precision_is_widened_and_large_losses_stay_finite():
    half = LOGITS.bfloat16()
    loss = Fragility()(fixed(half), IMAGES, TARGETS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, Fragility()(fixed(half.float()), IMAGES, TARGETS))
    soft = Fragility()(fixed(half), IMAGES, torch.full((20, 5), 0.2, dtype=torch.bfloat16))
    assert torch.isfinite(soft)
    far = torch.tensor([[1e4, 0.0], [0.0, 0.0]])
    assert float(Fragility(0.01)(fixed(far), IMAGES[:2], torch.tensor([1, 0]))) == pytest.approx(1e4, rel=1e-5)


def test_a_class_that_is_left_out_is_no_fault():
    excluded = torch.tensor([[1.0, -torch.inf, 0.0], [0.0, -torch.inf, 2.0]])
    assert torch.isfinite(Fragility()(fixed(excluded), IMAGES[:2], torch.tensor([0, 2])))


def test_it_nests_in_anchored_and_in_mixup():
    model = kedge.anchor(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), references=IMAGES[:4])
    for objective in (Anchored(Fragility(), alpha=0.5), Mixup(Anchored(Fragility(0.5), alpha=0.5))):
        loss = objective(model, IMAGES, TARGETS)
        loss.backward()
        assert torch.isfinite(loss)


@pytest.mark.parametrize("k", [0.0, -1.0, math.inf, math.nan])
def test_a_k_that_is_none_is_refused(k):
    with pytest.raises(ValueError, match=f"k is by how many nats a loss stands out, a number above 0, got {k}"):
        Fragility(k)


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match="label_smoothing must be in"):
        Fragility(label_smoothing=1.0)
    with pytest.raises(ValueError, match="class indices"):
        Fragility()(fixed(LOGITS), IMAGES, TARGETS.float())
