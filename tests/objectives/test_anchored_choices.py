"""How references are drawn and what masked images are trained to, beyond the paper."""

import pytest
import torch
import torch.nn.functional as F
from scipy.ndimage import uniform_filter
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, Mixup, SquaredError, set_progress
from tests.objectives.small import Spy, generator, one_convolution

IMAGES = torch.rand(40, 3, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (40,), generator=generator(6))


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = one_convolution()
    made = kedge.anchor(net, example=(3, 8, 8), mean=[0.5, 0.4, 0.3], std=[0.25, 0.2, 0.1])
    made.references = torch.rand(5, 3, 8, 8)
    return made


def test_alpha_is_ramped_in(model):
    spy = Spy()
    objective = Anchored(spy, alpha=0.8, mask_target="label", ramp=0.5)
    shares = {}
    for progress in (0.0, 0.25, 0.5, 0.9):
        set_progress(objective, progress)
        counts = []
        for seed in range(30):
            objective.generator = generator(seed)
            objective(model, IMAGES, TARGETS)
            counts.append(spy.seen[0].mask.float().mean())
        shares[progress] = float(torch.stack(counts).mean())
    assert shares[0.0] == 0
    assert shares[0.25] == pytest.approx(0.4, abs=0.05)
    assert shares[0.5] == pytest.approx(0.8, abs=0.05)
    assert shares[0.9] == shares[0.5]
    assert Anchored(spy, alpha=0.8, ramp=0.5).share == 0.8  # where nobody says how far it is


def test_a_ramp_that_is_over_changes_no_draw(model):
    one, other = (Anchored(CrossEntropy(), ramp=ramp, generator=generator(1)) for ramp in (0.0, 0.3))
    assert torch.equal(one(model, IMAGES, TARGETS), other(model, IMAGES, TARGETS))


@pytest.mark.parametrize("soft", [False, True])
def test_references_of_other_classes(model, soft):
    spy = Spy()
    targets = F.one_hot(TARGETS, 4).float() if soft else TARGETS
    seen = set()
    for seed in range(20):
        Anchored(spy, alpha=0, partners="other-class", generator=generator(seed))(model, IMAGES, targets)
        partner = torch.cdist(spy.seen[0].references.flatten(1), IMAGES.flatten(1)).argmin(1)
        assert not (TARGETS[partner] == TARGETS).any()
        seen.add(int(partner[0]))
    assert len(seen) > 8
    alike = torch.zeros(40, dtype=torch.long)  # no other class in the batch: another image, as without
    Anchored(spy, alpha=0, partners="other-class")(model, IMAGES, alike)
    partner = torch.cdist(spy.seen[0].references.flatten(1), IMAGES.flatten(1)).argmin(1)
    assert not (partner == torch.arange(40)).any()


def test_references_are_means_of_several(model):
    spy = Spy()
    Anchored(spy, alpha=0, average=4)(model, IMAGES, TARGETS)
    spread = IMAGES.std()
    assert float(spy.seen[0].references.std()) == pytest.approx(float(spread) / 2, rel=0.1)
    assert torch.allclose(spy.seen[0].references.mean(0), IMAGES.mean(0), atol=1e-6)  # each image is in four of them
    Anchored(spy, alpha=0, average=4, reference_set=IMAGES)(model, IMAGES, TARGETS)
    assert float(spy.seen[0].references.std()) == pytest.approx(float(spread) / 2, rel=0.1)


def test_references_are_blurred(model):
    spy = Spy()
    Anchored(spy, alpha=0, blur=3, generator=generator(2))(model, IMAGES, TARGETS)
    sharp = IMAGES[kedge.anchoring.derangement(40, generator(2))]
    expected = uniform_filter(sharp.double().numpy(), (1, 1, 3, 3))[:, :, 1:-1, 1:-1]
    ours = spy.seen[0].references
    assert torch.allclose(ours[:, :, 1:-1, 1:-1].double(), torch.from_numpy(expected), atol=1e-6)
    assert torch.allclose(ours[:, :, 0, 0], sharp[:, :, :2, :2].mean((2, 3)), atol=1e-6)  # only what is inside counts


def test_the_bank_is_brought_to_what_training_sees(model):
    before = model.references.clone()
    Anchored(CrossEntropy()).prepare(model)
    assert torch.equal(model.references, before)
    Anchored(CrossEntropy(), average=5).prepare(model)
    assert torch.allclose(model.references, before.mean(0, keepdim=True).expand(5, -1, -1, -1), atol=1e-6)
    model.references = before
    Anchored(CrossEntropy(), blur=7).prepare(model)
    assert torch.allclose(model.references[:, :, 3, 3], before[:, :, :7, :7].mean((2, 3)), atol=1e-6)


def test_the_target_goes_by_the_share_of_the_image_in_the_residual(model):
    spy = Spy()
    Anchored(spy, alpha=0.5, mask_target="share", generator=generator(3))(model, IMAGES, TARGETS)
    view, _, targets = spy.seen
    assert view.unlabelled is None
    mean, std = model.mean.double(), model.std.double()
    for i in range(40):
        x, r = (((t[i].double() - mean[0]) / std[0]).square().sum() for t in (IMAGES, view.references))
        kept = float(x / (x + r)) if view.mask[i] else 1.0
        wanted = kept * F.one_hot(TARGETS[i], 4).double() + (1 - kept) / 4
        assert torch.allclose(targets[i].double(), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ramp": 1.5}, "share of training"),
        ({"partners": "other"}, "partners must be"),
        ({"partners": "other-class", "reference_set": IMAGES, "alpha": 0}, "leave one out"),
        ({"average": 0}, "average is a number"),
        ({"blur": 4}, "odd number of pixels"),
        ({"mask_target": "shares"}, "uniform, label, share"),
    ],
)
def test_what_cannot_be_is_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Anchored(CrossEntropy(), **arguments)
    with pytest.raises(ValueError, match="regression values"):
        Anchored(SquaredError(), mask_target="share")
    with pytest.raises(ValueError, match="needs classes"):
        Anchored(SquaredError(), alpha=0, partners="other-class")
    with pytest.raises(ValueError, match="put it outside"):
        Anchored(Mixup(CrossEntropy()), mask_target="share")


def test_vectors_have_nothing_to_blur():
    torch.manual_seed(0)
    model = kedge.anchor(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)), example=(6,))
    with pytest.raises(ValueError, match="blur is of images"):
        Anchored(CrossEntropy(), alpha=0, blur=3)(model, torch.rand(8, 6), torch.zeros(8, dtype=torch.long))
