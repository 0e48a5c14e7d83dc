"""The attacks as a training step uses them."""

import math
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kedge.attacks import FGSM, PGD, distance
from tests.attacks.waits import Waits
from tests.objectives.small import generator

EPS = 8 / 255


def rising(x):
    """Two classes; the loss of class 0 rises with every pixel."""
    score = x.flatten(1).mean(1)
    return torch.stack([-score, score], 1)


def still(x):
    """Two classes, and a gradient that is exactly zero."""
    return rising(x * 0)


# FGSM and its variants


@pytest.mark.parametrize(("variant", "reach"), [("rs", 1), ("n", 2)])
def test_where_a_step_starts(variant, reach):
    """Of a model without a gradient the start comes back: uniform within eps (rs) or 2 eps (n)."""
    images, labels = torch.full((200, 3, 16, 16), 0.5), torch.zeros(200, dtype=torch.long)
    noise = FGSM(EPS, variant=variant)(still, images, labels) - 0.5
    assert float(noise.abs().max()) <= reach * EPS + 1e-6
    shares = (noise.flatten() / (reach * EPS)).sort().values
    expected = torch.linspace(-1, 1, len(shares))
    # Kolmogorov and Smirnov: the 0.1 % limit is 1.95 / sqrt(n), in units of probability (half the width).
    assert float((shares - expected).abs().max()) / 2 < 1.95 / math.sqrt(len(shares))


def test_rs_is_a_step_of_one_and_a_quarter_cut_off_at_eps():
    images, labels = 0.3 + 0.4 * torch.rand(20, 3, 8, 8, generator=generator()), torch.zeros(20, dtype=torch.long)
    found = FGSM(EPS, variant="rs")(rising, images, labels, generator=generator(7))
    drawn = (2 * torch.rand(images.shape, generator=generator(7)) - 1) * EPS
    expected = (drawn + 1.25 * EPS).clamp(-EPS, EPS)
    torch.testing.assert_close(found - images, expected, atol=1e-6, rtol=0)
    # u + 1.25 < 1 for u uniform in (-1, 1): three of eight fall short of the edge.
    assert float((found - images < EPS - 1e-4).float().mean()) == pytest.approx(0.375, abs=0.03)


def test_n_is_a_step_of_eps_from_twice_the_radius_and_nothing_cut_off():
    images, labels = 0.3 + 0.4 * torch.rand(20, 3, 8, 8, generator=generator()), torch.zeros(20, dtype=torch.long)
    found = FGSM(EPS, variant="n")(rising, images, labels, generator=generator(7))
    drawn = (2 * torch.rand(images.shape, generator=generator(7)) - 1) * 2 * EPS
    torch.testing.assert_close(found - images, drawn + EPS, atol=1e-6, rtol=0)
    assert float((found - images).abs().max()) > 2.9 * EPS


@settings(max_examples=30, deadline=None)
@given(
    variant=st.sampled_from(["plain", "rs", "n"]),
    norm=st.sampled_from(["linf", "l2"]),
    eps=st.sampled_from([0.0, 1 / 255, 16 / 255, 0.5, 1.0]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    edge=st.booleans(),
    size=st.integers(0, 3),
)
def test_ranges_of_every_variant(variant, norm, eps, dtype, edge, size):
    images = torch.rand(size, 3, 4, 4).to(dtype)
    images = images.round() if edge else images
    found = FGSM(eps, norm=norm, variant=variant).training()(rising, images, torch.zeros(size, dtype=torch.long))
    assert (found.dtype, found.shape) == (dtype, images.shape)
    if size:
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
        reach = 3 if variant == "n" else 1
        assert float(distance(found, images, norm).max()) <= reach * eps * (1 + 1e-5) + 1e-6


def test_a_start_from_the_edge_of_the_range_stays_in_it():
    for value in (0.0, 1.0):
        images = torch.full((4, 1, 8, 8), value)
        found = FGSM(0.4, variant="n")(rising, images, torch.tensor([0, 1, 0, 1]))
        assert 0 <= float(found.min()) <= float(found.max()) <= 1


def test_an_l2_start_of_n_is_uniform_in_a_ball_of_twice_the_radius():
    images, labels = torch.full((4000, 1, 2, 2), 0.5), torch.zeros(4000, dtype=torch.long)
    away = (FGSM(0.1, norm="l2", variant="n")(still, images, labels) - 0.5).flatten(1).norm(dim=1)
    assert float(away.max()) <= 0.2 + 1e-6
    # E |δ|² = r² D / (D + 2) in a ball of dimension D.
    assert float(away.square().mean()) == pytest.approx(0.2**2 * 4 / 6, rel=0.03)


def test_an_unknown_variant():
    with pytest.raises(ValueError, match=r"variant must be one of .*'rs'.*got 'sr'"):
        FGSM(EPS, variant="sr")
    for eps, words in ((-EPS, "0 or more"), (8, "pixel units"), (math.nan, "0 or more")):
        for variant in ("plain", "rs", "n"):
            with pytest.raises(ValueError, match=words):
                FGSM(eps, variant=variant)


@pytest.mark.parametrize("start", [0, -1.0, math.nan, math.inf])
def test_a_start_that_is_no_radius(start):
    with pytest.raises(ValueError, match="radius in multiples of eps, above 0"):
        PGD(EPS, start=start)


# PGD in its training form


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_a_training_attack_by_hand(net, batch, norm):
    """Madry's iteration written out: uniform start, steps along the gradient, the ball, the last point."""
    images, labels = batch
    eps, size = (0.05, 0.02) if norm == "linf" else (0.5, 0.2)
    found = PGD(eps, 4, size, norm).training()(net, images, labels, generator=generator(3))
    g = generator(3)
    if norm == "linf":
        x = images + (2 * torch.rand(images.shape, generator=g) - 1) * eps
    else:
        direction = torch.randn(images.shape, generator=g)
        radius = eps * torch.rand(len(images), 1, generator=g) ** (1 / images[0].numel())
        x = images + direction * (radius / direction.flatten(1).norm(dim=1, keepdim=True)).view(-1, 1, 1, 1)
    x = x.clamp(0, 1)
    for _ in range(4):
        x = x.detach().requires_grad_()
        gradient = torch.autograd.grad(nn.functional.cross_entropy(net(x), labels, reduction="sum"), x)[0]
        if norm == "linf":
            away = (x.detach() + size * gradient.sign() - images).clamp(-eps, eps)
        else:
            away = x.detach() + size * gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1) - images
            away = away * (eps / away.flatten(1).norm(dim=1).clamp_min(1e-12)).clamp_max(1).view(-1, 1, 1, 1)
        x = (images + away).clamp(0, 1)
    torch.testing.assert_close(found, x, atol=1e-5, rtol=0)


def test_what_the_training_form_is(net, batch):
    attack = PGD(EPS, 3, 0.02, "l2", loss="margin", seed=5)
    made = attack.training()
    assert made == replace(attack, seed=None, keep="last", check=False)
    assert made.training() == made
    assert not torch.equal(made(net, *batch), made(net, *batch))
    torch.manual_seed(4)
    one = made(net, *batch)
    torch.manual_seed(4)
    assert torch.equal(one, made(net, *batch))


@pytest.mark.parametrize("options", [{"early_stop": True}, {"restarts": 3}])
def test_what_is_for_evaluation_only_is_refused(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}.* is for evaluation"):
        PGD(EPS, **options).training()


def test_looking_changes_nothing_that_is_found(net, batch):
    for attack in (PGD(EPS, 4), PGD(0.5, 3, norm="l2", keep="last"), FGSM(EPS, variant="n")):
        checked, unchecked = (replace(attack, check=c)(net, *batch) for c in (True, False))
        assert torch.equal(checked, unchecked)


@pytest.mark.parametrize(
    "attack",
    [PGD(EPS, 5), PGD(0.5, 3, norm="l2"), FGSM(EPS, variant="rs"), FGSM(EPS, variant="n"), PGD(EPS, 2, loss="margin")],
)
def test_a_training_attack_never_waits(net, batch, attack):
    images, labels = batch
    soft = nn.functional.one_hot(labels, 5).float()
    for targets in (labels, soft):
        with Waits() as seen:
            attack.training()(net, images, targets)
            attack.training()(net, images, targets, generator=generator())
        assert seen.calls == []


def test_the_evaluation_form_is_seen_to_wait(net, batch):
    """So that the count above means something."""
    with Waits() as seen:
        PGD(EPS, 2)(net, *batch)
    assert seen.calls
    with Waits() as seen:
        PGD(EPS, 2, early_stop=True, check=False)(net, *batch)
    assert seen.calls


# Half precision


class Sure(nn.Module):
    """A model so sure of class 0 that the gradient of its loss is about 1e-6: below what float16 can hold."""

    def __init__(self, width=4000, dtype=torch.float32):
        super().__init__()
        weight = torch.stack([torch.ones(width), -torch.ones(width)]) * (6 / width)
        self.head = nn.Linear(width, 2, bias=False, dtype=dtype)
        self.head.weight.data.copy_(weight)

    def forward(self, x):
        return self.head(x.flatten(1))


@pytest.mark.parametrize("how", ["autocast", "float16 model"])
def test_the_gradient_of_a_sure_model_does_not_vanish_in_float16(how):
    whole = how == "float16 model"
    model = Sure(dtype=torch.float16 if whole else torch.float32)
    images, labels = torch.ones(3, 1, 40, 100), torch.zeros(3, dtype=torch.long)
    images = images.half() if whole else images
    context = nullcontext() if whole else torch.autocast("cpu", torch.float16)
    with context:
        # Without a scale there is nothing to follow: that is the trap.
        leaf = images.clone().requires_grad_()
        loss = nn.functional.cross_entropy(model(leaf).float(), labels, reduction="sum")
        bare = torch.autograd.grad(loss, leaf)[0]
        found = FGSM(EPS).training()(model, images, labels)
    assert float(bare.abs().max()) == 0
    assert float((found.float() - 1 + EPS).abs().max()) < 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_weights_still_learn_after_an_attack_under_autocast(net, batch, dtype):
    """Casts of weights made while the attack looked without gradients must not be used by the training step."""
    images, labels = batch
    for attack in (PGD(EPS, 2).training(), PGD(EPS, 2)):
        net.zero_grad()
        with torch.autocast("cpu", dtype):
            made = attack(net, images, labels)
            loss = nn.functional.cross_entropy(net(made).float(), labels)
        loss.backward()
        gradients = {name: p.grad for name, p in net.named_parameters()}
        assert all(g is not None and float(g.abs().max()) > 0 for g in gradients.values()), gradients
