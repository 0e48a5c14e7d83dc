import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import kedge
from kedge.attacks import FGSM, PGD
from kedge.objectives import AAER, Anchored, CrossEntropy, Objective, set_progress
from kedge.objectives.aaer import abnormality
from tests.objectives.small import generator

EPS = 0.2


IMAGES = torch.rand(24, 3, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (24,), generator=generator(6))


class Wave(nn.Module):
    def forward(self, x):
        return torch.sin(12 * x)


@pytest.fixture
def net():
    """Curved enough that one long step makes the loss of some images fall."""
    torch.manual_seed(3)
    made = nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        Wave(),
        nn.Conv2d(12, 12, 3, stride=2),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(108, 4),
    )
    return made.train()


def log_likelihoods(logits, targets):
    return torch.stack([row.log_softmax(0)[t] for row, t in zip(logits, targets.tolist(), strict=True)])


def by_hand(net, variant, weights, seed, images=IMAGES, targets=TARGETS, follow=False):
    """The loss, image by image as the paper describes it, with its images and their abnormality."""
    radius, size = {"rs": (EPS, 1.25 * EPS), "n": (2 * EPS, EPS)}[variant]
    noise = radius * (2 * torch.rand(images.shape, generator=generator(seed)) - 1)
    start = (images + noise).clamp(0, 1).requires_grad_()
    first = net(start)
    gradient = torch.autograd.grad(-log_likelihoods(first, targets).sum(), start)[0]
    made = start.detach() + size * gradient.sign()
    if variant == "rs":
        made = images + (made - images).clamp(-EPS, EPS)
    made = made.clamp(0, 1)
    last = net(made)
    before, after = -log_likelihoods(first, targets).detach(), -log_likelihoods(last, targets)
    falls, moved, calm = [], [], []
    for i in range(len(images)):
        distance = ((first[i].detach() - last[i]) ** 2).sum()
        if before[i] > after[i]:
            falls.append(before[i] - (after[i] if follow else after[i].detach()))
            moved.append(distance)
        else:
            calm.append(distance.detach())
    loss = after.mean()
    if falls and calm:
        excess = sum(moved) / len(moved) - sum(calm) / len(calm)
        more = weights[1] * sum(falls) / len(falls) + weights[2] * max(excess, torch.zeros(()))
        loss = loss + weights[0] * len(falls) / len(images) * more
    return loss, made, len(falls) / len(images)


class Spy(Objective):
    """Cross-entropy that keeps the images it was given."""

    def forward(self, model, images, targets):
        self.images = images
        return F.cross_entropy(model(images), targets)


def gradients(loss, net):
    return torch.autograd.grad(loss, list(net.parameters()))


# The loss


@pytest.mark.parametrize("variant", ["rs", "n"])
@pytest.mark.parametrize("follow", [False, True])
@pytest.mark.parametrize("weights", [(1.0, 2.5, 1.5), (0.5, 0.0, 3.0), (1.0, 7.0, 0.0)])
def test_loss_and_gradients_are_those_of_the_formula(net, variant, weights, follow):
    other = copy.deepcopy(net)
    spy = Spy()
    objective = AAER(spy, FGSM(EPS, variant=variant), weights, follow_fall=follow, generator=generator(1))
    loss = objective(net, IMAGES, TARGETS)
    expected, made, ratio = by_hand(other, variant, weights, 1, follow=follow)
    assert 0.1 < ratio < 0.9
    assert torch.allclose(spy.images, made, atol=1e-6)
    assert objective.logged["abnormal_ratio"] == pytest.approx(ratio)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4)
    for ours, theirs in zip(gradients(loss, net), gradients(expected, other), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-3, atol=1e-5)


def test_as_the_authors_have_it_the_fall_changes_no_gradient(net):
    made = {
        second: AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, second, 1.5), generator=generator(1))
        for second in (0.0, 7.0)
    }
    losses = {second: objective(net, IMAGES, TARGETS) for second, objective in made.items()}
    assert losses[7.0] > losses[0.0]
    for one, other in zip(gradients(losses[0.0], net), gradients(losses[7.0], net), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("variant", ["rs", "n"])
def test_without_abnormal_images_it_is_the_loss_after_the_step(variant):
    # The loss of a linear model is convex: a step up its gradient never lowers it.
    torch.manual_seed(0)
    linear, spy = nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), Spy()
    objective = AAER(spy, FGSM(EPS, variant=variant), (1, 100, 100))
    loss = objective(linear, IMAGES, TARGETS)
    assert objective.logged["abnormal_ratio"] == 0
    assert loss.item() == F.cross_entropy(linear(spy.images), TARGETS).item()


def test_weights_of_zero_are_fgsm_training_with_the_ratio(net):
    spy = Spy()
    objective = AAER(spy, FGSM(EPS, variant="rs"), (0, 0, 0), generator=generator(1))
    loss = objective(net, IMAGES, TARGETS)
    assert loss.item() == F.cross_entropy(net(spy.images), TARGETS).item()
    assert objective.logged["abnormal_ratio"] > 0.1
    assert not objective.logged["abnormal_ratio"].requires_grad


def test_targets_may_be_soft(net):
    other = copy.deepcopy(net)
    soft = F.one_hot(TARGETS, 4).float()
    losses = []
    for model, targets in ((net, TARGETS), (other, soft)):
        objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3), generator=generator(1))
        losses.append(objective(model, IMAGES, targets).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


# Its parts


@settings(deadline=None, max_examples=40)
@given(batch=st.integers(1, 9), classes=st.integers(2, 5), seed=st.integers(0, 99), half=st.booleans())
def test_parts_of_a_batch_of_any_size(batch, classes, seed, half):
    draw = generator(seed)
    before, after = (torch.randn(batch, classes, generator=draw) for _ in "ab")
    if half:
        before, after = before.bfloat16(), after.bfloat16()
    targets = torch.randint(classes, (batch,), generator=draw)
    after.requires_grad_()
    ratio, fall, excess = abnormality(before, after, targets)
    one, two = (-log_likelihoods(z.float(), targets) for z in (before, after))
    abnormal = [bool(a > b) for a, b in zip(one, two, strict=True)]
    assert ratio.item() == pytest.approx(sum(abnormal) / batch)
    if not any(abnormal) or all(abnormal):
        assert fall == 0
        assert excess == 0
        return
    moved = ((before.float() - after.detach().float()) ** 2).sum(1)
    means = [
        torch.stack([m for m, a in zip(moved, abnormal, strict=True) if a is kind]).mean() for kind in (True, False)
    ]
    assert fall.item() == pytest.approx(
        sum((a - b).item() for a, b, c in zip(one, two, abnormal, strict=True) if c) / sum(abnormal), rel=1e-4
    )
    assert excess.item() == pytest.approx(max(0.0, float(means[0] - means[1])), rel=1e-3, abs=1e-5)


def test_only_logits_of_abnormal_images_after_the_step_get_a_gradient():
    before = torch.tensor([[0.0, 0.0], [0.0, 0.0], [1.0, 0.0]], requires_grad=True)
    after = torch.tensor([[3.0, 0.0], [0.0, 1.0], [1.0, 0.5]], requires_grad=True)
    ratio, fall, excess = abnormality(before, after, torch.tensor([0, 0, 0]))
    assert ratio == pytest.approx(1 / 3)
    # One moved by (3, 0), the others by (0, 1) and (0, 0.5).
    assert excess.item() == pytest.approx(9 - (1 + 0.25) / 2)
    gradient = torch.autograd.grad(excess, after, retain_graph=True)[0]
    assert gradient.tolist() == [[6, 0], [0, 0], [0, 0]]
    assert not torch.autograd.grad(fall, after)[0][1:].any()
    assert torch.autograd.grad(ratio + 0 * after.sum(), [before], allow_unused=True) == (None,)


def test_calmer_abnormal_images_cost_nothing_for_moving():
    before, after = torch.zeros(2, 2), torch.tensor([[0.1, 0.0], [0.0, 4.0]])
    ratio, fall, excess = abnormality(before, after, torch.tensor([0, 0]))
    assert ratio == 0.5
    assert fall > 0
    assert excess == 0


# The step


@pytest.mark.parametrize("variant", ["rs", "n"])
def test_images_stay_where_the_variant_lets_them(net, variant):
    spy = Spy()
    AAER(spy, FGSM(EPS / 4, variant=variant), (0, 0, 0))(net, IMAGES, TARGETS)
    away = (spy.images - IMAGES).abs().max()
    assert spy.images.min() >= 0
    assert spy.images.max() <= 1
    if variant == "rs":
        assert EPS / 8 < away <= EPS / 4 + 1e-6
    else:
        assert EPS / 2 < away <= 3 * EPS / 4 + 1e-6


def test_running_statistics_see_the_images_after_the_step_once(net):
    spy = Spy()
    objective = AAER(spy, FGSM(EPS, variant="rs"), (1, 2, 3))
    for _ in range(2):
        once = copy.deepcopy(net)
        objective(net, IMAGES, TARGETS)
        once(spy.images)
        for name, buffer in once.named_buffers():
            assert torch.equal(buffer, net.get_buffer(name)), name
    assert net[1].num_batches_tracked == 2
    assert net[1].track_running_stats


def test_before_and_after_are_of_one_function_in_eval_mode_too(net):
    net(IMAGES)
    net.eval()
    state = copy.deepcopy(net.state_dict())
    other = copy.deepcopy(net)
    objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3), generator=generator(1))
    loss = objective(net, IMAGES, TARGETS)
    assert loss.item() == pytest.approx(by_hand(other, "rs", (1, 2, 3), 1)[0].item(), rel=1e-4)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in state.items())
    assert not any(module.training for module in net.modules())


def test_modes_of_layers_stay(net):
    net[1].eval()
    modes = [module.training for module in net.modules()]
    AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3))(net, IMAGES, TARGETS)
    assert [module.training for module in net.modules()] == modes


class NoWaiting(TorchDispatchMode):
    """Forbids what would wait for an accelerator: numbers read by the host, and indexing by a mask."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"), name
        if name in ("index", "index_put", "index_put_"):
            assert not any(getattr(i, "dtype", None) in (torch.bool, torch.uint8) for i in args[1] if i is not None)
        return func(*args, **(kwargs or {}))


def test_no_step_after_the_first_waits_for_the_device(net):
    objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3))
    objective(net, IMAGES, TARGETS)
    with NoWaiting():
        loss = objective(net, IMAGES, TARGETS)
        loss.backward()
    assert torch.isfinite(loss)


def test_under_autocast(net):
    objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3), generator=generator(1))
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(net, IMAGES, TARGETS)
    loss.backward()
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert any(p.grad.any() for p in net.parameters())
    assert 0 < objective.logged["abnormal_ratio"] < 1


def test_inside_anchored_all_passes_have_the_references_of_the_step(net):
    model = kedge.anchor(net, example=(3, 8, 8), mean=0.5, std=0.25).train()
    model.references = torch.rand(3, 3, 8, 8)
    seen = []

    def record(module, args, kwargs):
        seen.append((kwargs["references"], kwargs["mask"], module.training))

    model.register_forward_pre_hook(record, with_kwargs=True)
    objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3))
    outer = Anchored(objective, alpha=0.25, generator=generator(1))
    outer(model, IMAGES, TARGETS)
    seen.clear()
    outer(model, IMAGES, TARGETS).backward()
    (first, mask, training), (second, again, still) = seen
    assert first is second
    assert mask is again
    assert training
    assert still
    assert model.stem.reference.weight.grad is not None
    assert 0 <= objective.logged["abnormal_ratio"] <= 1


# Schedules and costs


def test_the_penalty_grows_with_progress(net):
    def loss(share, warmup):
        model = copy.deepcopy(net)
        objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3), warmup, generator=generator(1))
        set_progress(objective, share)
        return objective(model, IMAGES, TARGETS).item()

    none, whole = loss(0.0, 0.1), loss(0.0, 0.0)
    assert whole > none + 0.1
    assert loss(0.05, 0.1) == pytest.approx((none + whole) / 2, rel=1e-4)
    assert loss(0.1, 0.1) == loss(0.9, 0.1) == whole


def test_while_epsilon_is_zero_it_is_the_inner_loss(net):
    objective = AAER(CrossEntropy(), FGSM(EPS, variant="rs"), (1, 2, 3), hold=0.5)
    set_progress(objective, 0.2)
    assert objective.passes == 1
    assert objective(net, IMAGES, TARGETS).item() == F.cross_entropy(net(IMAGES), TARGETS).item()
    assert objective.logged["abnormal_ratio"] == 0
    set_progress(objective, 0.7)
    objective(net, IMAGES, TARGETS)
    assert objective.logged["abnormal_ratio"] > 0
    assert objective.passes == 2


@pytest.mark.parametrize(
    ("attack", "weights"),
    [
        (FGSM(8 / 255, variant="rs"), (1, 2.5, 1.5)),
        (FGSM(8 / 255, variant="n"), (1, 1.5, 0.15)),
        (FGSM(16 / 255, variant="rs"), (1, 7, 3.25)),
        (FGSM(16 / 255, variant="n"), (1, 8.5, 1.5)),
        (FGSM(4 / 255, variant="rs"), (1, 2.5, 1.5)),
        (FGSM(0.05, variant="rs"), (1, 5, 2.75)),
        (FGSM(0.5, variant="n"), (1, 2.75, 0.75)),
    ],
)
def test_the_published_weights_of_the_nearest_epsilon(attack, weights):
    assert AAER(CrossEntropy(), attack).weights == weights


# Bad input


@pytest.mark.parametrize("steps", [2, 10])
def test_more_than_one_step_is_refused(steps):
    with pytest.raises(ValueError, match=rf"FGSM\(eps, variant='rs'\) .* got {steps} steps"):
        AAER(CrossEntropy(), PGD(8 / 255, steps))


@pytest.mark.parametrize(
    ("given_", "message"),
    [
        ({"attack": None}, "its attack is FGSM.*got None"),
        ({"attack": FGSM(8 / 255)}, r"variants 'rs' and 'n' in linf.*\(0, 0, 0\)"),
        ({"attack": FGSM(0.5, "l2", variant="rs")}, "variants 'rs' and 'n' in linf"),
        ({"attack": FGSM(8 / 255, variant="rs", loss="margin")}, "cross-entropy"),
        ({"weights": (1, 2)}, r"three numbers .* got \(1, 2\)"),
        ({"weights": (1, -2, 0)}, "0 or more"),
        ({"weights": (1, float("nan"), 0)}, "0 or more"),
        ({"warmup": 20}, "share of training, 0 to 1, got 20"),
        ({"inner": Anchored(CrossEntropy())}, r"put it outside: Anchored\(AAER"),
    ],
)
def test_bad_values_are_explained(given_, message):
    with pytest.raises(ValueError, match=message):
        AAER(**{"inner": CrossEntropy(), "attack": FGSM(8 / 255, variant="rs"), **given_})


def test_other_single_steps_work_with_weights_of_their_own(net):
    attacks = [FGSM(EPS), FGSM(2.0, "l2", variant="rs"), FGSM(EPS, random_start=True)]
    for attack, weights in itertools.product(attacks, [(0, 0, 0), (1, 1, 1)]):
        objective = AAER(CrossEntropy(), attack, weights)
        assert torch.isfinite(objective(net, IMAGES, TARGETS))
        assert 0 <= objective.logged["abnormal_ratio"] <= 1
