import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, CutMix, Mixup, Objective, SquaredError
from kedge.objectives._base import set_looks
from tests.objectives.small import Spy, generator, one_convolution


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def net():
    return one_convolution()


@pytest.fixture
def model(net):
    made = kedge.anchor(net, example=(3, 8, 8), mean=0.5, std=0.25)
    with torch.no_grad():
        made.stem.reference.weight.add_(0.3 * torch.randn_like(made.stem.reference.weight))
    made.references = torch.rand(3, 3, 8, 8)
    return made


IMAGES = torch.rand(16, 3, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (16,), generator=generator(6))


# Cross-entropy


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_is_torchs(net, smoothing):
    ours = CrossEntropy(smoothing)(net, IMAGES, TARGETS)
    assert torch.allclose(ours, F.cross_entropy(net(IMAGES), TARGETS, label_smoothing=smoothing))
    soft = F.one_hot(TARGETS, 4).float()
    assert torch.allclose(CrossEntropy(smoothing)(net, IMAGES, soft), ours)


def test_class_weights_agree_with_torch_and_keep_uniform_targets_uniform(net):
    weights = torch.tensor([0.1, 1.0, 2.0, 5.0])
    ours = CrossEntropy(class_weights=weights)
    summed = F.cross_entropy(net(IMAGES), TARGETS, weight=weights, reduction="sum")
    assert torch.allclose(ours(net, IMAGES, TARGETS), summed / 16)
    assert torch.allclose(ours(net, IMAGES, F.one_hot(TARGETS, 4).float()), ours(net, IMAGES, TARGETS))
    logits = torch.zeros(16, 4, requires_grad=True)
    ours(lambda images: logits, IMAGES, torch.full((16, 4), 0.25)).backward()
    assert logits.grad.abs().max() < 1e-7


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32, torch.int16])
@pytest.mark.parametrize("weights", [None, [1.0, 2.0, 30.0, 4.0]])
def test_indices_of_any_integer_type_mean_the_same(net, dtype, weights):
    objective = CrossEntropy(class_weights=weights)
    assert torch.equal(objective(net, IMAGES[:4], TARGETS[:4].to(dtype)), objective(net, IMAGES[:4], TARGETS[:4]))


@pytest.mark.parametrize("targets", [TARGETS.float(), TARGETS[:5], torch.rand(16, 3), torch.rand(16, 4).long()])
def test_targets_that_do_not_fit_are_explained(net, targets):
    for objective in (CrossEntropy(), CrossEntropy(class_weights=[1, 1, 1, 1])):
        with pytest.raises(ValueError, match=r"class indices \[16\] or probabilities \[16, 4\], got"):
            objective(net, IMAGES, targets)


def test_squared_error(net):
    values = torch.randn(16, 4)
    assert torch.allclose(SquaredError()(net, IMAGES, values), ((net(IMAGES) - values) ** 2).mean())
    with pytest.raises(ValueError, match=r"shape \[16, 4\]"):
        SquaredError()(net, IMAGES, values[:, :2])


# Anchored


def test_without_masking_it_is_plain_anchoring(model):
    spy = Spy()
    loss = Anchored(spy, alpha=0, generator=generator())(model, IMAGES, TARGETS)
    partner = kedge.anchoring.derangement(16, generator())
    assert torch.allclose(loss, F.cross_entropy(model(IMAGES, IMAGES[partner]), TARGETS))
    assert spy.seen[2] is TARGETS


def test_masked_images_get_the_uniform_target_and_an_empty_slot(model):
    spy = Spy()
    Anchored(spy, alpha=0.5, generator=generator(1))(model, IMAGES, TARGETS)
    view, _, targets = spy.seen
    assert 0 < view.mask.sum() < 16
    assert torch.allclose(targets[view.mask], torch.tensor(0.25))
    assert torch.equal(targets[~view.mask].argmax(1), TARGETS[~view.mask])
    assert torch.equal(targets[~view.mask].amax(1), torch.ones(int((~view.mask).sum())))
    assert torch.allclose(view(IMAGES), model(IMAGES, view.references, view.mask))


def test_with_the_label_target_the_targets_stay(model):
    spy = Spy()
    Anchored(spy, alpha=1.0, mask_target="label")(model, IMAGES, TARGETS)
    assert spy.seen[0].mask.all()
    assert spy.seen[2] is TARGETS


def test_masking_per_batch_hides_all_or_nothing_at_the_rate_alpha(model):
    objective, spy = None, Spy()
    objective = Anchored(spy, alpha=0.3, mask_per="batch", generator=generator(2))
    shares = []
    for _ in range(300):
        objective(model, IMAGES[:4], TARGETS[:4])
        shares.append(float(spy.seen[0].mask.float().mean()))
    assert set(shares) == {0.0, 1.0}
    assert abs(sum(shares) / 300 - 0.3) < 0.1


def test_masking_per_sample_has_the_rate_alpha(model):
    spy = Spy()
    objective = Anchored(spy, alpha=0.3, generator=generator(3))
    masks = []
    for _ in range(100):
        objective(model, IMAGES, TARGETS)
        masks.append(spy.seen[0].mask)
    assert abs(float(torch.stack(masks).float().mean()) - 0.3) < 0.05


def test_the_same_generator_gives_the_same_loss(model):
    losses = [
        Mixup(Anchored(CrossEntropy(), generator=generator(4)), 0.3, generator(5))(model, IMAGES, TARGETS) for _ in "ab"
    ]
    assert torch.equal(*losses)
    torch.manual_seed(7)
    first = CutMix(Anchored(CrossEntropy()), 1.0)(model, IMAGES, TARGETS)
    torch.manual_seed(7)
    assert torch.equal(first, CutMix(Anchored(CrossEntropy()), 1.0)(model, IMAGES, TARGETS))


class Ascend(Objective):
    """A one-step attack, the way adversarial objectives nest: attack in eval mode, train in train mode."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, model, images, targets):
        assert isinstance(model, nn.Module)
        self.num_outputs = model.num_outputs
        model.eval()
        assert not model.model.training
        self.logits = [model(images).detach(), model(images).detach()]
        x = images.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), targets), x)
        self.references = model.references
        model.train()
        assert model.model.training
        return self.inner(model, (images + 0.1 * gradient.sign()).clamp(0, 1), targets)


def test_inner_objectives_see_a_module_with_bound_references(model):
    attack = Ascend(CrossEntropy())
    model.train()
    Anchored(attack, alpha=0.25)(model, IMAGES, TARGETS).backward()
    assert attack.num_outputs == 4
    assert torch.equal(*attack.logits)
    assert model.stem.reference.weight.grad is not None


def test_a_function_is_an_inner_objective(model):
    def loss(model, images, targets):
        return F.cross_entropy(model(images), targets)

    ours = Anchored(loss, alpha=0.5, generator=generator())(model, IMAGES, TARGETS)
    assert torch.equal(ours, Anchored(CrossEntropy(), alpha=0.5, generator=generator())(model, IMAGES, TARGETS))


def test_a_batch_of_one_takes_the_bank(model):
    spy = Spy()
    Anchored(spy, alpha=0)(model.train(), IMAGES[:1], TARGETS[:1])
    assert torch.equal(spy.seen[0].references, model.references[:1])


@pytest.mark.parametrize("kind", ["uint8 tensor", "data set", "tensor set", "PIL", "images alone"])
def test_references_come_from_the_reference_set(model, kind):
    bank = torch.randint(0, 256, (60, 3, 8, 8), generator=generator(8), dtype=torch.uint8)

    class TensorSet(list):
        images = bank

    reference_set = {
        "uint8 tensor": bank,
        "data set": [(image, 0) for image in bank],
        "tensor set": TensorSet((image, 0) for image in bank),
        "PIL": [(Image.fromarray(image.permute(1, 2, 0).numpy()), 0) for image in bank],
        "images alone": list(bank),
    }[kind]
    spy = Spy()
    Anchored(spy, reference_set=reference_set, generator=generator(9))(model, IMAGES, TARGETS)
    distance = (spy.seen[0].references.flatten(1)[:, None] - bank.flatten(1) / 255).abs().amax(2)
    assert distance.amin(1).max() < 1e-3
    assert len(distance.argmin(1).unique()) > 8


def test_a_small_reference_set_warns_when_masking(model):
    bank = torch.zeros(50, 3, 8, 8, dtype=torch.uint8)
    with pytest.warns(UserWarning, match="reference set of 50 images"):
        Anchored(CrossEntropy(), reference_set=bank)
    Anchored(CrossEntropy(), alpha=0, reference_set=bank)
    with pytest.raises(ValueError, match="empty"):
        Anchored(CrossEntropy(), reference_set=bank[:0])


def test_augmented_references_fill_the_slot_of_about_half(model):
    spy = Spy()
    objective = Anchored(spy, alpha=0, augment_reference=lambda r, g: 1 - r, generator=generator(1))
    objective(model, IMAGES, TARGETS)
    view = spy.seen[0]
    changed = (view.slot != view.references).flatten(1).any(1)
    assert 2 < changed.sum() < 14
    assert torch.equal(view.slot[changed], 1 - view.references[changed])
    assert torch.allclose(view(IMAGES), model(IMAGES, view.references, slot=view.slot))


def test_a_model_that_is_not_anchored_is_an_error(net):
    with pytest.raises(TypeError, match=r"Sequential; make one with kedge\.anchor"):
        Anchored(CrossEntropy())(net, IMAGES, TARGETS)


def test_inner_objectives_that_cannot_take_a_uniform_target_say_so():
    class NeedsIndices(CrossEntropy):
        targets_kind = "indices"

    for inner, takes in ((NeedsIndices(), "class indices"), (SquaredError(), "regression values")):
        with pytest.raises(ValueError, match=f'takes {takes}.*alpha=0.*mask_target="label"'):
            Anchored(inner)
        assert Anchored(inner, alpha=0).targets_kind == inner.targets_kind
        assert Anchored(inner, mask_target="label").alpha == 0.25
        with pytest.raises(ValueError, match="mixed targets"):
            Mixup(inner, 0.2)
        with pytest.raises(ValueError, match="takes"):
            Anchored(Anchored(inner, alpha=0))


def test_mixing_inside_masking_is_refused_as_it_would_mix_uniform_targets():
    for mix in (Mixup, CutMix):
        with pytest.raises(ValueError, match=rf"put it outside: {mix.__name__}\(Anchored"):
            Anchored(mix(CrossEntropy(), 0.2))
        assert Anchored(mix(CrossEntropy(), 0.2), alpha=0).alpha == 0


@pytest.mark.parametrize("bad", [{"alpha": 1.5}, {"mask_target": "none"}, {"mask_per": "image"}])
def test_values_out_of_range(bad):
    with pytest.raises(ValueError, match=str(next(iter(bad)))):
        Anchored(CrossEntropy(), **bad)


def test_regression_trains_anchored():
    model = kedge.anchor(nn.Linear(4, 2), example=(4,), task="regression")
    loss = Anchored(SquaredError(), alpha=0.25, mask_target="label")(model, torch.randn(8, 4), torch.randn(8, 2))
    loss.backward()
    assert torch.isfinite(loss)


def test_wrapped_models_are_seen_through(model):
    compiled = torch.compile(model, backend="eager")
    torch.manual_seed(3)
    plain = Anchored(CrossEntropy())(model, IMAGES, TARGETS)
    torch.manual_seed(3)
    assert torch.allclose(Anchored(CrossEntropy())(compiled, IMAGES, TARGETS), plain, atol=1e-6)
    torch.manual_seed(3)
    assert torch.allclose(Anchored(CrossEntropy())(nn.DataParallel(model), IMAGES, TARGETS), plain, atol=1e-6)


# Mixing


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.sampled_from([Mixup, CutMix]), st.sampled_from([0.05, 1.0, 5.0]))
def test_mixed_targets_say_how_much_of_each_image_is_left(seed, mix, alpha):
    # Image i is constant i / 100, so the mean of a mixed image tells the share of each parent.
    images = torch.arange(8).float().view(8, 1, 1, 1).expand(8, 1, 12, 10) / 100
    spy = Spy()
    net = nn.Sequential(nn.Flatten(), nn.Linear(120, 8))
    net.num_outputs = 8
    mix(spy, alpha, generator(seed))(net, images, torch.arange(8))
    _, mixed, targets = spy.seen
    assert torch.allclose(targets.sum(1), torch.ones(8), atol=1e-5)
    assert torch.allclose(mixed.mean((1, 2, 3)), targets @ (torch.arange(8) / 100), atol=1e-5)
    if mix is CutMix:
        assert set((mixed * 100).round().unique().tolist()) <= set(range(8))


def test_mixup_shares_follow_the_beta_distribution(model):
    mixup = Mixup(CrossEntropy(), 0.4, generator(0))
    shares = torch.stack([mixup._shares()[0] for _ in range(4000)])
    assert shares.mean() == pytest.approx(0.5, abs=0.02)
    assert shares.var() == pytest.approx(0.25 / (2 * 0.4 + 1), abs=0.01)


def test_mixing_needs_to_know_the_classes(net):
    with pytest.raises(ValueError, match="num_outputs"):
        Mixup(CrossEntropy(), 0.2)(net, IMAGES, TARGETS)
    with pytest.raises(ValueError, match="positive"):
        CutMix(CrossEntropy(), 0)
    with pytest.raises(ValueError, match=r"\[B, C, H, W\]"):
        CutMix(CrossEntropy(), 1)(net, torch.rand(2, 5), TARGETS[:2])


@pytest.mark.parametrize("looks", [0, 1])
def test_a_batch_without_images_is_refused(model, looks):
    """Its mean is NaN, and one step makes all weights NaN."""
    objective = Anchored(CrossEntropy(), alpha=0.5, mask_target="label")
    set_looks(objective, looks)
    with pytest.raises(ValueError, match=r"a batch without images has no loss, got \[0, 3, 8, 8\]: leave it out"):
        objective(model, torch.zeros(0, 3, 8, 8), torch.zeros(0, dtype=torch.long))
