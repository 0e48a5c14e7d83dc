import pytest
import torch
import torch.nn.functional as F

import kedge
from kedge.attacks import PGD
from kedge.objectives import (
    Adversarial,
    Anchored,
    Blend,
    CrossEntropy,
    Mixup,
    Noise,
    SquaredError,
    set_looks,
)
from tests.objectives.small import Spy, generator, one_convolution

MEAN, STD = [0.5, 0.4, 0.3], [0.25, 0.2, 0.1]


IMAGES = torch.rand(64, 3, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (64,), generator=generator(6))


@pytest.fixture
def net():
    torch.manual_seed(0)
    return one_convolution()


@pytest.fixture
def plain(net):
    return kedge.plain(net, example=(3, 8, 8), mean=MEAN, std=STD)


def test_a_residual_is_what_masking_shows_of_an_image(net, plain):
    """The masked pass of the anchored network, in which the reference is zero, is W_d (x - r)."""
    anchored = kedge.anchor(net, example=(3, 8, 8), mean=MEAN, std=STD)
    spy = Spy()
    Blend(spy, alpha=1.0, generator=generator(1))(plain, IMAGES, TARGETS)
    draws = generator(1)
    torch.rand(64, generator=draws)
    partner = kedge.anchoring.derangement(64, draws)
    masked = anchored(IMAGES, IMAGES[partner], mask=torch.ones(64, dtype=torch.bool))
    assert torch.allclose(plain(spy.seen[1]), masked, atol=1e-5)
    assert spy.seen[2] is TARGETS


def test_half_and_half_is_the_mean_of_two_images(net):
    spy = Spy()
    net.num_outputs = 4
    Blend(spy, 1.0, 0.5, 0.5, target="uniform", generator=generator(1))(net, IMAGES, TARGETS)  # needs no mean colour
    assert float(spy.seen[1].min()) >= 0
    assert float(spy.seen[1].max()) <= 1
    mixed = 2 * spy.seen[1] - IMAGES
    nearest = torch.cdist(mixed.flatten(1), IMAGES.flatten(1)).min(1)
    assert float(nearest.values.max()) < 0.05  # x + r less x is an image of the batch
    assert not (nearest.indices == torch.arange(64)).any()


def test_the_share_and_the_targets(plain):
    spy = Spy()
    Blend(spy, alpha=0.25, target="uniform", generator=generator(2))(plain, IMAGES, TARGETS)
    model, images, targets = spy.seen
    replaced = (images != IMAGES).flatten(1).any(1)
    assert 6 <= int(replaced.sum()) <= 26
    assert torch.equal(model.unlabelled, replaced)
    assert torch.equal(targets[replaced], torch.full((int(replaced.sum()), 4), 0.25))
    assert torch.equal(targets[~replaced], F.one_hot(TARGETS, 4)[~replaced].float())


def test_a_replaced_image_without_label_counts_as_one(plain):
    weights = torch.tensor([0.1, 1.0, 2.0, 5.0])
    one = Blend(CrossEntropy(class_weights=weights), 1.0, target="uniform", generator=generator(3))
    other = Blend(CrossEntropy(), 1.0, target="uniform", generator=generator(3))
    assert torch.allclose(one(plain, IMAGES, TARGETS), other(plain, IMAGES, TARGETS))


@pytest.mark.parametrize("draws", [None, 4])
def test_noise_is_as_strong_as_another_image(plain, draws):
    spy = Spy()
    torch.manual_seed(1)
    Noise(spy, alpha=1.0, generator=None if draws is None else generator(draws))(plain, IMAGES, TARGETS)
    apart = plain.normalise(spy.seen[1]) - plain.normalise(IMAGES)
    assert torch.allclose(apart.std((0, 2, 3)), torch.ones(3), atol=0.05)
    assert abs(float(apart.mean())) < 0.03
    Noise(spy, alpha=1.0, scale=0.0)(plain, IMAGES, TARGETS)
    assert torch.equal(spy.seen[1], IMAGES)


@pytest.mark.parametrize("kind", [Blend, Noise])
def test_it_repeats_and_trains_with_looks_at_every_batch(kind, plain):
    objective = kind(CrossEntropy(), alpha=1.0)
    losses = []
    for _ in range(2):
        set_looks(objective, 1)
        torch.manual_seed(7)
        losses.append(objective(plain.train(), IMAGES, TARGETS))
    assert torch.equal(*losses)
    losses[0].backward()
    assert all(p.grad is not None for p in plain.parameters())
    with pytest.raises(ValueError, match="0 to 255"):
        kind(CrossEntropy())(plain, IMAGES * 255, TARGETS)


def test_a_batch_of_one_has_no_other(plain):
    spy = Spy()
    Blend(spy, alpha=1.0)(plain, IMAGES[:1], TARGETS[:1])
    assert torch.equal(spy.seen[1], IMAGES[:1])


def test_what_cannot_be_is_refused(net):
    for kind in (Blend, Noise):
        with pytest.raises(ValueError, match="probability"):
            kind(CrossEntropy(), alpha=1.5)
        with pytest.raises(ValueError, match="target must be"):
            kind(CrossEntropy(), target="labels")
        with pytest.raises(ValueError, match="regression values, not the uniform distribution that replaced"):
            kind(SquaredError(), target="uniform")
        with pytest.raises(ValueError, match=rf"put it outside: Mixup\({kind.__name__}"):
            kind(Mixup(CrossEntropy()), target="uniform")
        with pytest.raises(ValueError, match="use loss='ce'"):
            kind(Adversarial(CrossEntropy(), PGD(0.1, 2, loss="margin")), target="uniform")
        with pytest.raises(TypeError, match=r"kedge\.plain"):
            kind(CrossEntropy(), alpha=1.0)(net, IMAGES, TARGETS)
    with pytest.raises(ValueError, match="scale"):
        Noise(CrossEntropy(), scale=-1)


def test_it_goes_round_anchoring(net):
    model = kedge.anchor(net, example=(3, 8, 8), mean=MEAN, std=STD)
    loss = Blend(Anchored(CrossEntropy(), mask_target="label"), 0.5)(model, IMAGES, TARGETS)
    assert loss.isfinite()
