import math

import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, Guidance, Mixup, set_progress
from kedge.objectives._cka import cka, gram
from kedge.objectives.guidance import evenly

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(12) % 3


def noise(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def alike(one, other, debiased=True, rows=None):
    return float(cka(gram(one, rows), gram(other, rows), debiased, rows).detach())


def mlp(classes=3, seed=0):
    torch.manual_seed(seed)
    layers = [nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, classes)]
    return nn.Sequential(*layers)


def cnn(classes=3, seed=5):
    torch.manual_seed(seed)
    body = [nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 6, 3), nn.ReLU()]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(6, classes))


@pytest.fixture
def model():
    return kedge.plain(mlp(), mean=0.4, std=0.3, example=(1, 8, 8))


@pytest.fixture
def guide():
    return kedge.plain(cnn(5), mean=0.4, std=0.3, example=(1, 8, 8))


# The likeness itself


@pytest.mark.parametrize("debiased", [False, True])
def test_features_are_like_themselves_turned_and_scaled(debiased):
    x, (q, _) = noise(20, 6, seed=0), torch.linalg.qr(noise(6, 6, seed=1))
    assert alike(x, x, debiased) == pytest.approx(1, abs=1e-5)
    assert alike(x, 3 * x @ q + 7, debiased) == pytest.approx(1, abs=1e-5)
    y = noise(20, 9, seed=2)
    assert alike(x, y, debiased) == pytest.approx(alike(y, x, debiased), abs=1e-6)


def test_the_published_values():
    square = torch.tensor([[0.0, 0], [0, 1], [1, 0], [1, 1]])
    assert alike(square, square[:, :1], debiased=False) == pytest.approx(1 / math.sqrt(2), abs=1e-6)
    # Of two images centred features have rank 1, so that all are alike.
    assert alike(noise(2, 5, seed=3), noise(2, 9, seed=4), debiased=False) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(
    ("images", "width", "plain"),
    [(64, 16, 0.21), (64, 64, 0.49), (64, 512, 0.89), (64, 4096, 0.985), (256, 64, 0.20), (256, 512, 0.67)],
)
def test_independent_noise_looks_alike_unless_debiased(images, width, plain):
    """A draw of the debiased one has a deviation of 0.02 at 64 images: the mean of eight."""
    draws = [(noise(images, width, seed=2 * s), noise(images, width, seed=2 * s + 1)) for s in range(8)]
    assert sum(alike(*pair, debiased=False) for pair in draws) / 8 == pytest.approx(plain, abs=0.03)
    assert sum(alike(*pair) for pair in draws) / 8 == pytest.approx(0, abs=0.03)


def test_debiased_it_is_the_ratio_of_the_unbiased_estimates_of_song():
    def hsic(one, other):
        n = len(one)
        k, m = one - one.diag().diag(), other - other.diag().diag()
        last = 2 / (n - 2) * (k.sum(0) @ m.sum(0))
        return ((k * m).sum() + k.sum() * m.sum() / ((n - 1) * (n - 2)) - last) / (n * (n - 3))

    one, other = noise(7, 3, seed=7).double(), noise(7, 5, seed=8).double()
    k, m = one @ one.T, other @ other.T
    expected = hsic(k, m) / (hsic(k, k) * hsic(m, m)).sqrt()
    assert alike(one, other) == pytest.approx(float(expected), abs=1e-9)


@pytest.mark.parametrize("debiased", [False, True])
def test_constant_features_are_like_nothing_and_have_no_gradient(debiased):
    constant = torch.full((8, 5), 0.3, requires_grad=True)
    value = cka(gram(constant), gram(noise(8, 4, seed=9)), debiased)
    value.backward()
    assert float(value.detach()) == 0
    assert torch.equal(constant.grad, torch.zeros(8, 5))


@pytest.mark.parametrize("debiased", [False, True])
def test_images_that_do_not_count(debiased):
    one, other, rows = noise(9, 4, seed=10), noise(9, 6, seed=11), torch.arange(9) < 6
    assert alike(one, other, debiased, rows) == pytest.approx(alike(one[:6], other[:6], debiased), abs=1e-5)


def test_half_precision_is_widened():
    one, other = noise(16, 4, seed=12).bfloat16(), noise(16, 6, seed=13).bfloat16()
    assert cka(gram(one), gram(other)).dtype == torch.float32
    assert alike(one, other) == pytest.approx(alike(one.float(), other.float()))


# The objective


def test_layers_go_evenly():
    assert evenly(["a", "b", "c"], ["1", "2", "3", "4", "5"]) == {"a": "2", "b": "3", "c": "5"}
    assert evenly(["a", "b", "c", "d"], ["1", "2"]) == {"a": "1", "d": "2"}
    assert evenly(["a", "b"], ["1"]) == {"b": "1"}


def test_it_is_the_loss_and_the_sum_over_layers(model, guide):
    plain = CrossEntropy()(model, IMAGES, TARGETS)
    objective = Guidance(CrossEntropy(), guide, 0.5, debiased=False)
    objective.prepare(model)
    # The student's linear layers but the last; of the guide two convolutions and the pooling between them.
    assert objective.pairs == {"network.1": "network.3", "network.3": "network.4"}
    network, led = model.network, guide.eval().network
    x = (IMAGES - 0.4) / 0.3
    first, third = network[1](x.flatten(1)), network[:4](x)
    expected = 2 - alike(first, led[:4](x), False) - alike(third, led[:5](x), False)
    loss = objective(model, IMAGES, TARGETS)
    assert float((loss - plain).detach()) == pytest.approx(0.5 * expected, abs=1e-5)
    both = [alike(first, led[:4](x)), alike(third, led[:5](x))]
    assert float(objective.logged["cka"]) == pytest.approx(sum(both) / 2, abs=1e-5)


def test_only_the_model_learns(model, guide):
    guide.train()
    objective = Guidance(CrossEntropy(), guide)
    objective.prepare(model)
    before = {key: value.clone() for key, value in objective.guide.model.state_dict().items()}
    objective.train()
    objective(model, IMAGES, TARGETS).backward()
    assert all(torch.equal(value, before[key]) for key, value in objective.guide.model.state_dict().items())
    assert not objective.guide.model.training
    assert guide.training  # a copy answers
    assert model.network[1].weight.grad.abs().sum() > 0
    assert not list(objective.parameters())
    assert not objective.state_dict()


def test_weight_zero_runs_no_guide_and_is_the_inner_objective(model, guide):
    objective = Guidance(CrossEntropy(), guide, 0)
    objective.prepare(model)
    objective.guide.model.forward = None
    assert torch.equal(objective(model, IMAGES, TARGETS), CrossEntropy()(model, IMAGES, TARGETS))
    assert objective.passes == 1


def test_it_may_guide_at_the_beginning_only(model, guide):
    objective, plain = Guidance(CrossEntropy(), guide, until=0.25), CrossEntropy()(model, IMAGES, TARGETS)
    set_progress(objective, 0.2)
    assert objective(model, IMAGES, TARGETS) > plain
    set_progress(objective, 0.25)
    assert torch.equal(objective(model, IMAGES, TARGETS), plain)


def test_a_guide_of_fresh_weights_is_that_of_the_seed(guide):
    one, same, other = (Guidance(CrossEntropy(), guide, trained=False, seed=s).guide.model for s in (0, 0, 1))
    weights = [each.network[0].weight for each in (one, same, other, guide)]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[3])
    guide.network[1].register_parameter("own", nn.Parameter(torch.zeros(1)))
    guide.network.add_module("odd", _Odd())
    with pytest.raises(ValueError, match=r"fresh weights: network.odd \(_Odd\)"):
        Guidance(CrossEntropy(), guide, trained=False)


class _Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))


def test_soft_targets_and_half_precision(model, guide):
    objective = Guidance(CrossEntropy(), guide)
    objective.prepare(model)
    loss = objective(model, IMAGES, TARGETS)
    torch.testing.assert_close(objective(model, IMAGES, nn.functional.one_hot(TARGETS, 3).float()), loss)
    half = objective.bfloat16()(model.bfloat16(), IMAGES.bfloat16(), TARGETS)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(loss.detach()), rel=0.05)


def test_a_last_short_batch_is_not_guided_and_a_first_one_refused(model, guide):
    objective = Guidance(CrossEntropy(), guide)
    objective.prepare(model)
    with pytest.raises(ValueError, match="4 or more, got 3"):
        objective(model, IMAGES[:3], TARGETS[:3])
    objective(model, IMAGES[:5], TARGETS[:5]).backward()
    short = objective(model, IMAGES[:3], TARGETS[:3])
    assert torch.equal(short, CrossEntropy()(model, IMAGES[:3], TARGETS[:3]))


def test_it_nests_in_anchored_whose_masked_images_do_not_count(guide):
    model = kedge.anchor(cnn(3, seed=1), references=IMAGES[:4], example=(1, 8, 8))
    objective = Anchored(Guidance(CrossEntropy(), guide), alpha=0.4)
    objective.inner.prepare(model)
    loss = objective(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(model.network[4].weight.grad).all()
    hidden = Anchored(Guidance(CrossEntropy(), guide, alpha=2.0), alpha=1.0)
    hidden.inner.prepare(model)
    plain = Anchored(CrossEntropy(), alpha=1.0)
    torch.manual_seed(0)
    expected = plain(model, IMAGES, TARGETS)
    torch.manual_seed(0)
    # Nobody counts: the term is a constant, one for each layer.
    torch.testing.assert_close(hidden(model, IMAGES, TARGETS), expected + 2.0 * len(hidden.inner.pairs))


def test_named_layers(model, guide):
    objective = Guidance(CrossEntropy(), guide, layers={"3": "network.4"})
    objective.prepare(model)
    assert torch.isfinite(objective(model, IMAGES, TARGETS))


def test_what_cannot_be_is_refused_before_training(model, guide):
    with pytest.raises(ValueError, match="alpha is a number, 0 or more, got -1"):
        Guidance(CrossEntropy(), guide, -1)
    with pytest.raises(ValueError, match="until is a share of training"):
        Guidance(CrossEntropy(), guide, until=2)
    with pytest.raises(ValueError, match="not 'odd'"):
        Guidance(CrossEntropy(), guide, layers="odd")
    with pytest.raises(ValueError, match="names no layer"):
        Guidance(CrossEntropy(), guide, layers={})
    with pytest.raises(ValueError, match="Mixup inside Guidance"):
        Guidance(Mixup(CrossEntropy()), guide)
    with pytest.raises(TypeError, match="the guide is a model"):
        Guidance(CrossEntropy(), "runs/guide")
    with pytest.raises(ValueError, match=r"layers of the model.*no layer 'stem'"):
        Guidance(CrossEntropy(), guide, layers={"stem": "network.4"}).prepare(model)
    with pytest.raises(ValueError, match=r"layers of the guide.*no layer 'stem'"):
        Guidance(CrossEntropy(), guide, layers={"3": "stem"}).prepare(model)
    other = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), example=(1, 4, 4))
    with pytest.raises(ValueError, match=r"guide takes images of \[1, 4, 4\], the model of \[1, 8, 8\]"):
        Guidance(CrossEntropy(), other).prepare(model)
    flat = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), example=(1, 8, 8))
    with pytest.raises(ValueError, match="no layer before its logits"):
        Guidance(CrossEntropy(), flat).prepare(model)


def test_in_mixed_precision_likeness_is_not_rounded():
    one, other = noise(32, 100, seed=0), noise(32, 70, seed=1)
    expected = alike(one, other)
    with torch.autocast("cpu", torch.bfloat16):
        assert alike(one, other) == expected


def test_that_nobody_says_the_progress_is_said(model, guide):
    objective = Guidance(CrossEntropy(), guide, until=0.5)
    with pytest.warns(UserWarning, match="never guides: call kedge.objectives.set_progress"):
        objective(model.train(), IMAGES, TARGETS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_fresh_weights_are_those_of_the_seed_on_a_gpu_too():
    here, there = (Guidance(CrossEntropy(), cnn().to(where), trained=False).guide.model for where in ("cpu", "cuda"))
    for one, other in zip(here.parameters(), there.parameters(), strict=True):
        assert other.is_cuda
        assert torch.equal(one, other.cpu())
