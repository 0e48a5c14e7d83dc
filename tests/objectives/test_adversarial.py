"""Training on attacked images, against the same steps written out by hand."""

import copy
import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from scipy.special import rel_entr
from torch import nn

import kedge
from kedge.attacks import FGSM, PGD
from kedge.objectives import TRADES, Adversarial, Anchored, CrossEntropy, CutMix, Mixup, SquaredError, set_progress
from kedge.objectives._divergence import divergence
from kedge.objectives._views import BoundReferences
from tests.attacks.waits import Waits
from tests.objectives.small import generator

EPS = 0.1
ATTACK = PGD(EPS, 3, 0.04)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class Net(nn.Module):
    """Batch norm and dropout as bait, four classes; knows its number of classes."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.num_classes = num_classes
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.drop, self.head = nn.Dropout(0.3), nn.Linear(8, num_classes)
        nn.init.normal_(self.norm.running_mean, std=0.3)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.norm(self.conv(x))).mean((2, 3)) * 5))


@pytest.fixture
def net():
    return Net().train()


@pytest.fixture
def smooth():
    """The network without dropout: one function in eval and in train mode, but for batch norm."""
    made = Net().train()
    made.drop.p = 0.0
    return made


@pytest.fixture
def anchored():
    made = kedge.anchor(Net(), example=(3, 8, 8), mean=0.5, std=0.25)
    with torch.no_grad():
        made.stem.reference.weight.add_(0.3 * torch.randn_like(made.stem.reference.weight))
    made.references = torch.rand(3, 3, 8, 8)
    return made.train()


IMAGES = torch.rand(16, 3, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (16,), generator=generator(6))
SOFT = torch.rand(16, 4, generator=generator(7)).softmax(1)


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def close(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], msg=lambda text, name=name: f"{name}: {text}")


# Adversarial


@pytest.mark.parametrize("targets", [TARGETS, SOFT], ids=["indices", "soft"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_it_is_the_inner_loss_at_the_images_of_the_attack(net, targets, smoothing):
    twin = copy.deepcopy(net)
    torch.manual_seed(3)
    loss = Adversarial(CrossEntropy(smoothing), ATTACK)(net, IMAGES, targets)
    torch.manual_seed(3)
    made = ATTACK.training()(twin, IMAGES, targets)
    expected = F.cross_entropy(twin(made), targets, label_smoothing=smoothing)
    assert torch.equal(loss, expected)
    close(gradients(net, loss), gradients(twin, expected))
    # The training forward alone moved the statistics, and moved them once.
    assert int(net.norm.num_batches_tracked) == 1
    close(dict(net.named_buffers()), dict(twin.named_buffers()))
    assert not torch.equal(made, IMAGES)
    assert float((made - IMAGES).abs().max()) <= EPS + 1e-6


def test_who_is_in_which_mode(net):
    net.norm.eval()
    seen = []
    net.register_forward_pre_hook(lambda m, _: seen.append([each.training for each in m.modules()]))
    modes = [m.training for m in net.modules()]
    objective = Adversarial(CrossEntropy(), ATTACK)
    objective(net, IMAGES, TARGETS)
    seen.clear()
    objective(net, IMAGES, TARGETS)
    assert len(seen) == ATTACK.steps + 1
    assert not any(any(each) for each in seen[:-1])
    assert seen[-1] == modes
    assert [m.training for m in net.modules()] == modes


def test_gradients_that_were_there_are_added_to_and_not_lost(net):
    """Accumulation over batches: the attack neither clears nor adds to them."""
    parameters = list(net.parameters())
    for p in parameters:
        p.grad = torch.full_like(p, 7.0)
    loss = Adversarial(CrossEntropy(), ATTACK)(net, IMAGES, TARGETS)
    assert all(bool((p.grad == 7).all()) for p in parameters)
    own = torch.autograd.grad(loss, parameters, retain_graph=True)
    loss.backward()
    for p, g in zip(parameters, own, strict=True):
        torch.testing.assert_close(p.grad, g + 7)


def test_a_generator_decides_the_starts(smooth):
    smooth.norm.eval()
    torch.manual_seed(1)
    one, other, third = (
        Adversarial(CrossEntropy(), FGSM(EPS, variant="rs"), generator=generator(s))(smooth, IMAGES, TARGETS)
        for s in (4, 4, 5)
    )
    assert torch.equal(one, other)
    assert not torch.equal(one, third)
    expected = torch.rand(3, generator=generator(1))
    assert torch.equal(torch.rand(3), expected)


def test_successive_steps_draw_anew(smooth):
    made = []
    smooth.register_forward_pre_hook(lambda m, inputs: made.append(inputs[0].detach()) if m.training else None)
    for seed in (0, 5):
        objective = Adversarial(CrossEntropy(), PGD(EPS, 1, 1e-9, seed=seed))
        for _ in "ab":
            objective(smooth, IMAGES, TARGETS)
    assert all(not torch.allclose(a, b, atol=EPS / 4) for i, a in enumerate(made) for b in made[:i])


def test_an_attack_of_your_own(net):
    def attack(model, images, targets):
        assert targets is TARGETS
        return 1 - images

    twin = copy.deepcopy(net)
    torch.manual_seed(2)
    loss = Adversarial(CrossEntropy(), attack)(net, IMAGES, TARGETS)
    torch.manual_seed(2)
    assert torch.equal(loss, F.cross_entropy(twin(1 - IMAGES), TARGETS))
    with pytest.raises(ValueError, match="hold, ramp and stages change the eps of a PGD or FGSM"):
        Adversarial(CrossEntropy(), attack, ramp=0.5)


def test_the_images_are_left_alone(net):
    images = IMAGES.clone().requires_grad_()
    Adversarial(CrossEntropy(), ATTACK)(net, images, TARGETS).backward()
    assert images.grad is None
    assert torch.equal(images, IMAGES)


# Anchored and mixing


def test_inside_anchored_the_attack_sees_the_references_and_the_mask_of_the_step(anchored):
    twin = copy.deepcopy(anchored)
    loss = Anchored(Adversarial(CrossEntropy(), ATTACK, generator=generator(8)), alpha=0.5, generator=generator(1))(
        anchored, IMAGES, TARGETS
    )
    # The draws of Anchored by hand: a derangement, then the mask.
    g = generator(1)
    references = IMAGES[kedge.anchoring.derangement(16, g)]
    mask = torch.rand(16, generator=g) < 0.5
    assert 0 < int(mask.sum()) < 16
    targets = torch.where(mask[:, None], 0.25, F.one_hot(TARGETS, 4).float())
    bound = BoundReferences(twin, references, mask, None)
    torch.manual_seed(0)
    made = ATTACK.training()(bound, IMAGES, targets, generator=generator(8))
    torch.manual_seed(0)
    twin.network.drop.p = anchored.network.drop.p = 0.0
    anchored.load_state_dict(twin.state_dict())
    again = Anchored(Adversarial(CrossEntropy(), ATTACK, generator=generator(8)), alpha=0.5, generator=generator(1))(
        anchored, IMAGES, TARGETS
    )
    expected = F.cross_entropy(bound(made), targets)
    assert torch.equal(again, expected)
    close(gradients(anchored, again), gradients(twin, expected))
    assert loss.isfinite()


def test_the_reference_slot_is_the_same_at_every_step_of_the_attack(anchored):
    slots = []
    anchored.network.register_forward_pre_hook(lambda _, inputs: slots.append(inputs[0][:, 3:].detach().clone()))
    objective = Anchored(Adversarial(CrossEntropy(), ATTACK), alpha=0.3, reference_set=torch.rand(60, 3, 8, 8))
    objective(anchored, IMAGES, TARGETS)
    assert len(slots) >= ATTACK.steps + 1
    hidden = (slots[0] == 0).flatten(1).all(1)
    assert 0 < int(hidden.sum()) < 16
    assert all(torch.equal(slot, slots[0]) for slot in slots)
    first = slots[0]
    slots.clear()
    objective(anchored, IMAGES, TARGETS)
    assert not torch.equal(slots[0], first)


def test_what_belongs_outside_is_refused_inside():
    for kind in (Adversarial, TRADES):
        with pytest.raises(ValueError, match=rf"Anchored inside {kind.__name__} would draw references"):
            kind(Anchored(CrossEntropy()), ATTACK)
        for mixing in (Mixup, CutMix):
            name = mixing.__name__
            with pytest.raises(ValueError, match=rf"{name} inside {kind.__name__} would mix.*{name}\({kind.__name__}"):
                kind(mixing(CrossEntropy()), ATTACK)
        with pytest.raises(ValueError, match="would attack what is attacked already"):
            kind(Adversarial(CrossEntropy(), ATTACK), ATTACK)
        with pytest.raises(ValueError, match="for classification; SquaredError is not"):
            kind(SquaredError(), ATTACK)


def test_mixup_outside_attacks_the_mixed_images(smooth):
    twin = copy.deepcopy(smooth)
    loss = Mixup(Adversarial(CrossEntropy(), ATTACK, generator=generator(1)), 0.4, generator(2))(
        smooth, IMAGES, TARGETS
    )
    g = generator(2)
    gammas = torch._standard_gamma(torch.full((2,), 0.4), generator=g)
    share, partner = gammas[0] / gammas.sum(), torch.randperm(16, generator=g)
    soft = F.one_hot(TARGETS, 4).float()
    mixed, soft = (share * a + (1 - share) * a[partner] for a in (IMAGES, soft))
    made = ATTACK.training()(twin, mixed, soft, generator=generator(1))
    torch.testing.assert_close(loss, F.cross_entropy(twin(made), soft))


# The schedule of epsilon


@pytest.mark.parametrize(
    ("hold", "ramp", "progress", "share"),
    [
        (0.0, 0.0, 0.0, 1.0),
        (0.0, 0.0, 1.0, 1.0),
        (0.2, 0.5, 0.0, 0.0),
        (0.2, 0.5, 0.2, 0.0),
        (0.2, 0.5, 0.45, 0.5),
        (0.2, 0.5, 0.7, 1.0),
        (0.2, 0.5, 1.0, 1.0),
        (0.3, 0.0, 0.29, 0.0),
        (0.3, 0.0, 0.3, 1.0),
        (0.0, 0.5, 0.0, 0.0),
        (0.0, 1.0, 0.25, 0.25),
    ],
)
def test_epsilon_follows_progress(smooth, hold, ramp, progress, share):
    smooth.norm.eval()
    made = []
    objective = Adversarial(CrossEntropy(), PGD(EPS, 40), hold=hold, ramp=ramp)
    objective(smooth, IMAGES, TARGETS)
    set_progress(objective, progress)
    smooth.register_forward_pre_hook(lambda m, inputs: made.append(inputs[0].detach()) if m.training else None)
    objective(smooth, IMAGES, TARGETS)
    # Enough steps of eps / 4 to reach an edge nearly everywhere, whatever the epsilon.
    reached = (made[0] - IMAGES).abs().flatten(1).amax(1)
    torch.testing.assert_close(reached, torch.full((16,), share * EPS), atol=1e-6, rtol=1e-4)
    assert objective.passes == (1 if share == 0 else 41)
    if share == 0:
        assert torch.equal(made[0], IMAGES)


def test_progress_reaches_an_objective_that_is_wrapped(anchored):
    objective = Mixup(Anchored(Adversarial(CrossEntropy(), ATTACK, ramp=1.0), alpha=0))
    set_progress(objective, 0.25)
    assert objective.inner.inner.share == 0.25
    assert objective.passes == ATTACK.steps + 1
    set_progress(objective, 0.0)
    assert objective.passes == 1


def test_the_step_shrinks_with_epsilon(smooth):
    smooth.norm.eval()
    made = []
    objective = Adversarial(CrossEntropy(), FGSM(EPS), ramp=1.0)
    smooth.register_forward_pre_hook(lambda m, inputs: made.append(inputs[0].detach()) if m.training else None)
    set_progress(objective, 0.5)
    objective(smooth, IMAGES, TARGETS)
    leaf = IMAGES.clone().requires_grad_()
    F.cross_entropy(copy.deepcopy(smooth).eval()(leaf), TARGETS, reduction="sum").backward()
    torch.testing.assert_close(made[0], (IMAGES + EPS / 2 * leaf.grad.sign()).clamp(0, 1))


@pytest.mark.parametrize(
    ("hold", "ramp"), [(-0.1, 0), (1.0, 0), (0.6, 0.5), (0, 1.1), (0, -0.2), (math.nan, 0), (0, math.nan)]
)
def test_shares_out_of_range(hold, ramp):
    with pytest.raises(ValueError, match="hold and ramp are shares of training, together at most 1"):
        Adversarial(CrossEntropy(), ATTACK, hold, ramp)


# TRADES


def kl(p_logits, q_logits):
    """KL(p ‖ q), the mean over rows, by scipy in float64."""
    p, q = (z.detach().double().softmax(1).numpy() for z in (p_logits, q_logits))
    return rel_entr(p, q).sum(1).mean()


def test_divergence_is_scipys_with_the_clean_answer_first():
    one, other = torch.randn(50, 6), 4 * torch.randn(50, 6)
    assert float(divergence(one, other)) == pytest.approx(kl(one, other), rel=1e-5)
    assert abs(kl(one, other) - kl(other, one)) > 0.1
    assert divergence(one.bfloat16(), other.bfloat16()).dtype == torch.float32
    extreme = torch.tensor([[200.0, -200.0], [0.0, 0.0]])
    assert float(divergence(extreme, extreme)) == 0
    assert divergence(extreme, -extreme).isfinite()


def test_trades_by_hand(smooth):
    twin = copy.deepcopy(smooth)
    loss = TRADES(CrossEntropy(0.05), ATTACK, beta=3.0, generator=generator(2))(smooth, IMAGES, TARGETS)
    # x' by hand: start at random, climb KL(p(x) ‖ p(x')) of eval mode by its sign.
    twin.eval()
    answers = twin(IMAGES).softmax(1).detach()
    made = (IMAGES + (2 * torch.rand(IMAGES.shape, generator=generator(2)) - 1) * EPS).clamp(0, 1)
    for _ in range(3):
        made.requires_grad_()
        climbed = F.kl_div(twin(made).log_softmax(1), answers, reduction="sum")
        gradient = torch.autograd.grad(climbed, made)[0]
        made = (IMAGES + (made.detach() + 0.04 * gradient.sign() - IMAGES).clamp(-EPS, EPS)).clamp(0, 1)
    twin.train()
    clean, attacked = twin(IMAGES), twin(made)
    natural = F.cross_entropy(clean, TARGETS, label_smoothing=0.05)
    p = clean.softmax(1)
    expected = natural + 3 * (p * (clean.log_softmax(1) - attacked.log_softmax(1))).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    assert float((loss - natural).detach()) == pytest.approx(3 * kl(clean, attacked), rel=1e-3)
    # Through both answers, as in the authors' code.
    close(gradients(smooth, loss), gradients(twin, expected))


def test_the_attack_of_trades_climbs_the_divergence(smooth):
    smooth.eval()
    objective = TRADES(CrossEntropy(), PGD(EPS, 10), generator=generator(3))
    made = objective.neighbours(smooth, IMAGES, TARGETS)
    start = (IMAGES + (2 * torch.rand(IMAGES.shape, generator=generator(3)) - 1) * EPS).clamp(0, 1)
    clean, at_start, at_end = (smooth(x) for x in (IMAGES, start, made))
    assert kl(clean, at_end) > 3 * kl(clean, at_start)
    assert float((made - IMAGES).abs().max()) <= EPS + 1e-6


def test_trades_without_beta_is_its_inner_loss(smooth):
    twin = copy.deepcopy(smooth)
    loss = TRADES(CrossEntropy(), ATTACK, beta=0.0)(smooth, IMAGES, TARGETS)
    torch.testing.assert_close(loss, F.cross_entropy(twin(IMAGES), TARGETS))


def test_trades_of_an_anchored_model(anchored):
    anchored.network.drop.p = 0.0
    twin = copy.deepcopy(anchored)
    loss = Anchored(TRADES(CrossEntropy(), ATTACK, 2.0, generator=generator(8)), alpha=0, generator=generator(1))(
        anchored, IMAGES, TARGETS
    )
    bound = BoundReferences(twin, IMAGES[kedge.anchoring.derangement(16, generator(1))], None, None)
    with torch.no_grad():
        answers = bound.eval()(IMAGES).softmax(1)
    made = ATTACK.training()(bound, IMAGES, answers, generator=generator(8))
    twin.train()
    clean, attacked = bound(IMAGES), bound(made)
    expected = F.cross_entropy(clean, TARGETS) + 2 * F.kl_div(
        attacked.log_softmax(1), clean.softmax(1), reduction="batchmean"
    )
    torch.testing.assert_close(loss, expected)


def test_where_trades_could_not_climb_it_is_refused():
    with pytest.raises(ValueError, match="TRADES needs random_start: at the image itself"):
        TRADES(CrossEntropy(), PGD(EPS, 5, random_start=False))
    with pytest.raises(ValueError, match="TRADES needs random_start"):
        TRADES(CrossEntropy(), FGSM(EPS))
    with pytest.raises(ValueError, match='loss="ce"'):
        TRADES(CrossEntropy(), PGD(EPS, 5, loss="margin"))
    for beta in (-1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="beta is a number, 0 or more"):
            TRADES(CrossEntropy(), ATTACK, beta)


def test_passes_are_those_that_are_made(net):
    """Counted by hooks: a forward pass is a third, a backward pass two thirds of one."""
    net.norm.eval()
    for objective in (
        Adversarial(CrossEntropy(), ATTACK),
        TRADES(CrossEntropy(), ATTACK),
        Adversarial(CrossEntropy(), ATTACK, hold=0.5),
        TRADES(CrossEntropy(), ATTACK, hold=0.5),
    ):
        for progress in (0.0, 1.0):
            objective(net, IMAGES, TARGETS)  # The first batch is looked at, which is not counted.
            set_progress(objective, progress)
            counts = [0, 0]

            def forward(module, inputs, output, counts=counts):
                counts[0] += 1
                if output.requires_grad:
                    output.register_hook(lambda _, counts=counts: counts.__setitem__(1, counts[1] + 1))

            handle = net.register_forward_hook(forward)
            objective(net, IMAGES, TARGETS).backward()
            handle.remove()
            assert objective.passes == pytest.approx(counts[0] / 3 + 2 * counts[1] / 3), (objective, progress)


# Waiting and precision


@pytest.mark.parametrize("kind", [Adversarial, TRADES])
@pytest.mark.parametrize("ramp", [0.0, 0.8])
def test_no_step_after_the_first_waits_for_the_device(net, anchored, kind, ramp):
    for model, objective in (
        (net, kind(CrossEntropy(), ATTACK, ramp=ramp)),
        (anchored, Anchored(kind(CrossEntropy(), ATTACK, ramp=ramp), alpha=0)),
        (net, Mixup(kind(CrossEntropy(), PGD(EPS, 2, norm="l2"), ramp=ramp))),
        (anchored, Anchored(kind(CrossEntropy(), FGSM(EPS, variant="rs"), ramp=ramp), alpha=0.25)),
    ):
        # Of probabilities, as one_hot looks at its labels on a CPU, and does not on a GPU.
        objective(model, IMAGES, SOFT)
        for progress in (0.4, 1.0):
            set_progress(objective, progress)
            with Waits() as seen:
                objective(model, IMAGES, SOFT).backward()
            assert seen.calls == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("kind", [Adversarial, TRADES])
@pytest.mark.parametrize("hold", [0.0, 0.5])
def test_under_autocast_every_weight_gets_its_gradient(smooth, dtype, kind, hold):
    """Weights that autocast cast while nothing was learnt must not be used again; in every step, the first too."""
    smooth.norm.eval()
    twin = copy.deepcopy(smooth)
    objective, reference = (kind(CrossEntropy(), ATTACK, hold=hold, generator=generator(1)) for _ in "ab")
    for progress in (0.0, 0.2, 1.0):
        set_progress(objective, progress)
        set_progress(reference, progress)
        with torch.autocast("cpu", dtype):
            loss = objective(smooth, IMAGES, TARGETS)
        found = gradients(smooth, loss)
        expected = gradients(twin, reference(twin, IMAGES, TARGETS))
        for name, gradient in expected.items():
            assert torch.cosine_similarity(found[name].flatten(), gradient.flatten(), 0) > 0.9, name


# What is looked at before the first step


class Detached(Net):
    def forward(self, x):
        return super().forward(x.detach())


class Rounded(Net):
    """As an exported model does: weights learn, but the input is cut off by rounding it."""

    def forward(self, x):
        return super().forward((x * 255).to(torch.uint8).float() / 255)


@pytest.mark.parametrize("kind", [Adversarial, TRADES])
@pytest.mark.parametrize("model", [Detached(), Rounded()], ids=["detached", "rounded"])
@pytest.mark.parametrize("hold", [0.0, 0.5])
def test_a_model_without_a_gradient_is_refused_before_it_learns(kind, model, hold):
    before = copy.deepcopy(model.state_dict())
    objective = kind(CrossEntropy(), ATTACK, hold=hold)
    set_progress(objective, 0.0)
    with pytest.raises(ValueError, match="no gradient with respect to the images"):
        objective(model, IMAGES, TARGETS)
    close(model.state_dict(), before)


@pytest.mark.parametrize("kind", [Adversarial, TRADES])
@pytest.mark.parametrize("model", [Net(), nn.Sequential(nn.Flatten(), nn.Linear(192, 4))], ids=["named", "bare"])
@pytest.mark.parametrize(
    ("label", "dtype"), [(4, torch.long), (-1, torch.long), (-100, torch.int32), (17, torch.uint8)]
)
def test_labels_that_the_model_has_no_output_for(kind, model, label, dtype):
    targets = TARGETS.clone()
    targets[3] = label
    with pytest.raises(ValueError, match=rf"classes 0 to 3 of the model, got {label}$"):
        kind(CrossEntropy(), ATTACK)(model, IMAGES, targets.to(dtype))


@pytest.mark.parametrize("kind", [Adversarial, TRADES])
def test_images_out_of_range(net, kind):
    for hold in (0.0, 0.5):
        objective = kind(CrossEntropy(), ATTACK, hold=hold)
        set_progress(objective, 0.0)
        with pytest.raises(ValueError, match=r"images must be in \[0, 1\], before normalisation, got \[0.*, 25"):
            objective(net, IMAGES * 255, TARGETS)
    with pytest.raises(TypeError, match="images / 255"):
        kind(CrossEntropy(), ATTACK)(net, (IMAGES * 255).to(torch.uint8), TARGETS)


def test_gradients_that_vanish_are_said_once():
    class Saturated(Net):
        def forward(self, x):
            return super().forward(x) * 1e4

    model = Saturated()
    targets = model.eval()(IMAGES).argmax(1)
    objective = Adversarial(CrossEntropy(), ATTACK)
    with pytest.warns(UserWarning, match=r"100 % of the first batch .*probable gradient masking.*loss='margin'"):
        objective(model, IMAGES, targets)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        objective(model, IMAGES, targets)
        # The loss that it recommends does find a direction.
        Adversarial(CrossEntropy(), PGD(EPS, 3, loss="margin"))(model, IMAGES, targets)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("confidence", [1, 10])
def test_sound_models_are_not_warned_of(classes, confidence):
    model = Net(classes)
    model.head.weight.data.mul_(confidence)
    targets = model.eval()(IMAGES).argmin(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for kind in (Adversarial, TRADES):
            kind(CrossEntropy(), ATTACK)(model.train(), IMAGES, targets)


def test_a_divergence_is_looked_at_where_its_attack_starts():
    """At the image itself it has no gradient: exactly zero here, and of most images of two classes by rounding."""

    class Even(nn.Module):
        def forward(self, x):
            score = (x - 0.5).flatten(1).sum(1)
            return torch.stack([score, -score], 1)

    images = torch.full((8, 1, 4, 4), 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TRADES(CrossEntropy(), ATTACK)(Even(), images, torch.arange(8) % 2)


def test_the_look_draws_nothing(smooth):
    """A run whose first batch is looked at is the run that it would be without."""
    smooth.norm.eval()
    for kind in (Adversarial, TRADES):
        objective = kind(CrossEntropy(), ATTACK)
        losses = []
        for _ in "ab":
            torch.manual_seed(0)
            losses.append(objective(smooth, IMAGES, TARGETS))
        assert torch.equal(*losses)


def test_what_is_no_attack():
    with pytest.raises(ValueError, match=r"Adversarial needs an attack, such as kedge.attacks.PGD\(eps=8/255"):
        Adversarial(CrossEntropy())
    with pytest.raises(ValueError, match=r"called with \(model, images, targets\), got 0.1"):
        Adversarial(CrossEntropy(), 0.1)
    with pytest.raises(ValueError, match="early_stop is for evaluation"):
        Adversarial(CrossEntropy(), PGD(EPS, early_stop=True))
    with pytest.raises(ValueError, match="targeted"):
        Adversarial(CrossEntropy(), PGD(EPS, targeted=True))


# It works


class Centred(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 2)

    def forward(self, x):
        return self.head(x.flatten(1) - 0.5)


def test_it_makes_a_model_robust():
    """Classes told apart by many faint pixels or by one strong one: attacked training comes to use the strong one."""
    g = generator(0)
    labels = torch.arange(400) % 2
    sign = (2 * labels - 1).float()
    images = 0.5 + 0.05 * sign[:, None] + 0.02 * torch.randn(400, 64, generator=g)
    images[:, 0] = 0.5 + 0.3 * sign
    images = images.view(400, 1, 8, 8)
    robust = {}
    for name, objective in (("plain", CrossEntropy()), ("attacked", Adversarial(CrossEntropy(), PGD(EPS, 4)))):
        torch.manual_seed(0)
        model = Centred()
        optimizer = torch.optim.Adam(model.parameters(), 0.05)
        for _ in range(60):
            optimizer.zero_grad()
            objective(model, images, labels).backward()
            optimizer.step()
        found = PGD(EPS, 20, loss="margin")(model, images, labels)
        robust[name] = float((model(found).argmax(1) == labels).float().mean())
    assert robust["plain"] < 0.2
    assert robust["attacked"] > 0.95
