"""Class weights: the weighted risk whatever the batch, and one image for one whose label is masked away."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import log_loss
from sklearn.utils.class_weight import compute_class_weight, compute_sample_weight
from torch import nn

import kedge
from kedge.attacks import FGSM, PGD
from kedge.objectives import (
    AAER,
    CURE,
    TRADES,
    Adversarial,
    Anchored,
    Brier,
    CrossEntropy,
    CutMix,
    Mixup,
    Objective,
    image_weights,
)
from kedge.objectives._views import Recorded
from tests.attacks.waits import Waits
from tests.objectives.small import generator, one_convolution


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


RARE = torch.tensor([0] * 54 + [1] * 5 + [2])  # sixty images of three classes
WEIGHTS = torch.from_numpy(compute_class_weight("balanced", classes=np.arange(3), y=RARE.numpy())).float()
IMAGES = torch.rand(60, 3, 8, 8, generator=generator(5))


@pytest.fixture
def net():
    return one_convolution(3, activation=nn.Tanh)


@pytest.fixture
def model(net):
    made = kedge.anchor(net, example=(3, 8, 8), mean=0.5, std=0.25)
    with torch.no_grad():
        made.stem.reference.weight.add_(0.3 * torch.randn_like(made.stem.reference.weight))
    return made


class Seen(CrossEntropy):
    """Cross-entropy that keeps what it was called with, and the loss, for a count by hand."""

    def forward(self, model, images, targets):
        self.calls = [*getattr(self, "calls", []), (model, images, targets)]
        self.loss = super().forward(model, images, targets)
        return self.loss


def by_hand(model, images, targets, mask, smoothing=0.0):
    """The mean over the images, in a loop: a masked image counts as one, each other by the weights of its target."""
    total = 0.0
    for logits, target, hidden in zip(model(images).double(), targets, mask, strict=True):
        target = F.one_hot(target, 3).double() if target.ndim == 0 else target.double()
        weight = 1.0 if hidden else float(target @ WEIGHTS.double())
        smoothed = (1 - smoothing) * target + smoothing / 3
        total -= weight * float(smoothed @ logits.log_softmax(0)) / len(images)
    return total


# The weighted risk


@pytest.mark.parametrize("size", [1, 2, 12, 60])
def test_the_mean_over_batches_is_the_weighted_risk_whatever_their_size(net, size):
    objective = CrossEntropy(class_weights=WEIGHTS)
    order = torch.randperm(60, generator=generator(1))
    losses = [objective(net, IMAGES[i], RARE[i]).item() for i in order.split(size)]
    probs = net(IMAGES).double().softmax(1).detach().numpy()
    expected = log_loss(RARE.numpy(), probs, sample_weight=compute_sample_weight("balanced", RARE.numpy()))
    assert np.mean(losses) == pytest.approx(expected, rel=1e-5)


def test_gradients_of_processes_average_to_those_of_the_whole_batch(net):
    objective, images, labels = CrossEntropy(class_weights=WEIGHTS), IMAGES[40:], RARE[40:]
    whole = torch.autograd.grad(objective(net, images, labels), net.parameters())
    halves = [
        torch.autograd.grad(objective(net, images[part], labels[part]), net.parameters())
        for part in (slice(0, 10), slice(10, 20))
    ]
    for one, first, second in zip(whole, *halves, strict=True):
        assert torch.allclose((first + second) / 2, one, atol=1e-6)


def test_the_sum_of_losses_is_torchs(net):
    ours = CrossEntropy(class_weights=WEIGHTS)(net, IMAGES, RARE)
    assert torch.allclose(60 * ours, F.cross_entropy(net(IMAGES), RARE, weight=WEIGHTS, reduction="sum"))


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1.0, -1.0, 2.0], r"0 or more, one for each class, got \[1.0, -1.0, 2.0\]"),
        ([1.0, float("nan")], "0 or more"),
        ([1.0, float("inf")], "0 or more"),
        ([[1.0, 2.0]], "one for each class"),
        ([], "one for each class"),
        ([0.0, 0.0], "on one side"),
        ([1 / 990, 1 / 10], r"weights / weights\[labels\].mean\(\)"),
        ([2.0, 40.0], "on one side"),
    ],
)
def test_weights_that_cannot_be_are_refused(weights, words):
    with pytest.raises(ValueError, match=words):
        CrossEntropy(class_weights=weights)


@pytest.mark.parametrize("kind", [CrossEntropy, Brier])
def test_another_number_of_weights_than_of_outputs_is_refused(net, kind):
    for targets in (RARE, F.one_hot(RARE, 3).float()):
        with pytest.raises(ValueError, match="class_weights has 4 values, but the model has 3 outputs"):
            kind(class_weights=[1.0, 1.0, 1.0, 1.0])(net, IMAGES, targets)


# Masked images


@pytest.mark.parametrize("mask_per", ["sample", "batch"])
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("outside", [None, Mixup, CutMix])
def test_a_masked_image_counts_as_one(model, mask_per, smoothing, outside):
    seen = Seen(smoothing, WEIGHTS)
    objective = Anchored(seen, alpha=0.4, mask_per=mask_per, generator=generator(3))
    if outside is not None:
        objective = outside(objective, 1.0, generator(4))
    masks = []
    for i in torch.randperm(60, generator=generator(2)).split(15):
        loss = objective(model, IMAGES[i], RARE[i])
        view, images, targets = seen.calls[-1]
        masks.append(view.mask)
        assert torch.allclose(targets[view.mask], torch.tensor(1 / 3))
        assert loss.item() == pytest.approx(by_hand(view, images, targets, view.mask, smoothing), rel=1e-5)
    assert 0 < torch.cat(masks).sum() < 60


@pytest.mark.parametrize("mask_per", ["sample", "batch"])
def test_a_masked_image_with_its_label_counts_by_its_label(model, mask_per):
    seen = Seen(0.0, WEIGHTS)
    loss = Anchored(seen, 0.9, "label", mask_per, generator=generator(3))(model, IMAGES, RARE)
    view, images, targets = seen.calls[-1]
    assert view.mask.any()
    assert targets is RARE
    assert loss.item() == pytest.approx(by_hand(view, images, targets, torch.zeros(60).bool()), rel=1e-5)


class Own(Objective):
    """Somebody's wrapper, with a view of the model of their own."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, model, images, targets):
        return self.inner(nn.Sequential(Recorded(model)), images, targets)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda inner: Adversarial(inner, PGD(0.05, 2)),
        lambda inner: TRADES(inner, PGD(0.05, 2), beta=0.0),
        lambda inner: CURE(inner, PGD(0.05, 2), beta=0.0, consistency=0.0),
        lambda inner: CURE(inner, PGD(0.05, 2), beta=0.0, mask="none", consistency=0.0),
        lambda inner: AAER(inner, FGSM(0.05, variant="rs"), weights=(0.0, 0.0, 0.0)),
        Own,
    ],
    ids=["Adversarial", "TRADES", "CURE", "CURE-unmasked", "AAER", "own"],
)
def test_a_masked_image_counts_as_one_inside_every_wrapper(model, wrap):
    seen = Seen(0.0, WEIGHTS)
    loss = Anchored(wrap(seen), alpha=0.4, generator=generator(3))(model.train(), IMAGES, RARE)
    view, images, targets = seen.calls[0]
    mask = torch.isclose(targets, torch.tensor(1 / 3)).all(1)
    assert 0 < mask.sum() < 60
    assert float(loss.detach()) == pytest.approx(by_hand(view, images, targets, mask), rel=1e-5)


@pytest.mark.parametrize(("rare", "alpha"), [(10, 0.25), (100, 0.25), (10, 0.6)])
def test_masked_images_carry_the_share_alpha_of_the_weight(model, rare, alpha):
    labels = torch.tensor([0] * (1000 - rare) + [1] * rare)
    weights = compute_class_weight("balanced", classes=np.arange(2), y=labels.numpy())
    seen = Seen(0.0, torch.tensor([*weights, 0.0]))
    objective = Anchored(seen, alpha, generator=generator(0))
    whole = masked = 0.0
    for step in range(100):
        i = torch.randperm(1000, generator=generator(step // 10))[step % 10 * 100 : step % 10 * 100 + 100]
        objective(model, torch.rand(100, 3, 8, 8), labels[i])
        view, _, targets = seen.calls[-1]
        counts = image_weights(view, targets, seen.class_weights)
        whole, masked = whole + float(counts.sum()), masked + float(counts[view.mask].sum())
    assert masked / whole == pytest.approx(alpha, abs=0.02)  # 0.89, 0.48 and 0.97 at the mean of the class weights


@pytest.mark.parametrize(("targets", "target"), [(RARE, "label"), (F.one_hot(RARE, 3).float(), "uniform")])
def test_weighing_waits_for_no_device(model, targets, target):
    objective = Anchored(CrossEntropy(0.1, WEIGHTS), 0.4, target)
    objective(model, IMAGES, targets)  # the first batch is looked at
    with Waits() as seen:  # one_hot looks at its indices, on a CPU alone
        objective(model, IMAGES, targets).backward()
    assert seen.calls == []


def test_half_of_each_of_two_classes_is_not_taken_for_masked(net):
    """In two classes the target of an even mix is the uniform one too, and its weight that of its halves."""
    two, weights = nn.Sequential(nn.Flatten(), nn.Linear(192, 2)), torch.tensor([0.5, 50.0])
    even = torch.full((4, 2), 0.5)
    expected = 25.25 * F.cross_entropy(two(IMAGES[:4]), even)
    assert torch.allclose(CrossEntropy(class_weights=weights)(two, IMAGES[:4], even), expected)


def test_an_attack_on_the_margin_of_masked_images_is_refused():
    inner = Adversarial(CrossEntropy(), PGD(0.05, 2, loss="margin"))
    with pytest.raises(ValueError, match="masked images have none"):
        Anchored(inner, alpha=0.25)
    with pytest.raises(ValueError, match="masked images have none"):
        Anchored(Own(inner), alpha=0.25)
    assert Anchored(inner, alpha=0.0).alpha == 0
    assert Anchored(inner, mask_target="label").alpha == 0.25


# A toy whose posterior is known


@pytest.mark.parametrize(("alpha", "most"), [(0.0, 0.05), (0.25, 0.15)])
def test_balanced_weights_give_the_posterior_of_balanced_classes(alpha, most):
    """Normal densities at -1 and 1, 990 and 10 images: for equal classes Bayes' rule says P(1 | x) = 1 / (1 + e^-2x).

    Batches hold 20 images, most of them none of the rare class. With the mean over weights and masked images at the
    mean of the class weights the errors were 0.16 and 0.26, the mean confidences 0.84 and 0.62 where 0.84 is true.
    """
    labels = torch.tensor([0] * 990 + [1] * 10)
    normal = torch.distributions.Normal(0.0, 1.0)
    x = torch.cat([normal.icdf((torch.arange(n) + 0.5) / n) + m for n, m in ((990, -1), (10, 1))])[:, None]
    weights = compute_class_weight("balanced", classes=np.arange(2), y=labels.numpy())
    model = kedge.anchor(nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 2)), example=(1,), mean=0.0, std=1.0)
    objective = Anchored(CrossEntropy(class_weights=weights), alpha, generator=generator(8))
    optimizer, draw = torch.optim.Adam(model.parameters(), 0.005), generator(7)
    for _ in range(12):
        for i in torch.randperm(1000, generator=draw).split(20):
            optimizer.zero_grad()
            objective(model, x[i], labels[i]).backward()
            optimizer.step()
    grid = torch.linspace(-2, 2, 41)[:, None]
    with torch.no_grad():
        posterior = torch.stack([model(grid, r.expand(41, 1)).softmax(1)[:, 1] for r in x[::40]]).mean(0)
    assert (posterior - (2 * grid[:, 0]).sigmoid()).abs().mean() < most


def test_in_mixed_precision_weights_of_soft_targets_are_not_rounded():
    weights, targets = torch.tensor([0.3, 1.7, 1.01]), torch.eye(3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(image_weights(None, targets, weights), weights)
