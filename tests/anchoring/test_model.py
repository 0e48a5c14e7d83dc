import copy
import io

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kedge
from tests.anchoring.conftest import SmallNet, disturb

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


@pytest.fixture
def model(net):
    made = kedge.anchor(net, example=(3, 16, 16), mean=MEAN, std=STD)
    made.references = torch.rand(6, 3, 16, 16)
    return disturb(made)


def concatenated(model):
    """An independent 2C-channel network net6(cat[r, x - r]) with the weights of `model`."""
    net6 = SmallNet(6)
    net6.load_state_dict({n: v for n, v in model.network.state_dict().items() if "stem" not in n}, strict=False)
    with torch.no_grad():
        net6.stem.weight.copy_(torch.cat([model.stem.reference.weight, model.stem.residual.weight], 1))
        net6.stem.bias.copy_(model.stem.residual.bias)
    return net6.train(model.training)


def tuple_input(images, references, mask=None):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    x, r = (images - mean) / std, (references - mean) / std
    slot = r if mask is None else r * ~mask.view(-1, 1, 1, 1)
    return torch.cat([slot, x - r], 1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_equals_the_concatenated_network_forward_and_backward(model, masked, training):
    model.train(training)
    images, references = torch.rand(5, 3, 16, 16), torch.rand(5, 3, 16, 16)
    mask = torch.tensor([True, False, True, False, False]) if masked else None
    net6 = concatenated(model)
    expected = net6(tuple_input(images, references, mask))
    logits = model(images, references, mask)
    assert torch.allclose(logits, expected, atol=1e-5)
    weights = torch.randn_like(logits)
    (expected * weights).sum().backward()
    (logits * weights).sum().backward()
    gradient_r, gradient_d = net6.stem.weight.grad.chunk(2, 1)
    assert torch.allclose(model.stem.reference.weight.grad, gradient_r, atol=1e-5)
    assert torch.allclose(model.stem.residual.weight.grad, gradient_d, atol=1e-5)
    assert torch.allclose(model.stem.residual.bias.grad, net6.stem.bias.grad, atol=1e-5)


def test_the_two_copy_form_equals_the_concatenated_one(model):
    other = copy.deepcopy(model)
    other.stem.widened = False
    other.stem.reference.bias = nn.Parameter(other.stem.residual.bias.detach().clone())
    images, references = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    mask = torch.tensor([True, False, False, True])
    assert torch.allclose(model(images, references, mask), other(images, references, mask), atol=1e-5)
    assert torch.allclose(model.predict(images).logits, other.predict(images).logits, atol=1e-5)
    assert torch.allclose(model.fold(2)(images), other.fold(2)(images), atol=1e-5)


def test_a_slot_replaces_the_reference_only_in_its_slot(model):
    images, references, slot = torch.rand(3, 4, 3, 16, 16)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    x, r, s = ((t - mean) / std for t in (images, references, slot))
    assert torch.allclose(
        model(images, references, slot=slot), concatenated(model)(torch.cat([s, x - r], 1)), atol=1e-5
    )


def test_eval_is_deterministic_and_independent_of_the_batch(model):
    images = torch.rand(9, 3, 16, 16)
    logits = model(images)
    assert torch.equal(logits, model(images))
    alone = torch.cat([model(image[None]) for image in images])
    order = torch.randperm(9)
    assert torch.allclose(alone, logits, atol=1e-5)
    assert torch.allclose(model(images[order]), logits[order], atol=1e-5)
    assert torch.allclose(model(images, model.references[:1]), logits, atol=1e-5)


def test_training_draws_another_image_for_each(model):
    model.train()
    images = torch.rand(6, 3, 16, 16)
    seen = []
    model.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0][:, 3:]))
    model(images)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    distance = torch.cdist((seen[0] * std + mean).flatten(1), images.flatten(1))
    partner = distance.argmin(1)
    assert distance.min(1).values.max() < 1e-3
    assert sorted(partner.tolist()) == list(range(6))
    assert all(i != j for i, j in enumerate(partner.tolist()))


def test_a_training_batch_of_one_uses_the_bank():
    bare = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 6 * 6, 2)).train()
    model = disturb(kedge.anchor(bare, example=(3, 8, 8)))
    model.references = torch.rand(2, 3, 8, 8)
    image = torch.rand(1, 3, 8, 8)
    assert torch.allclose(model(image), model(image, model.references[:1]), atol=1e-6)


@settings(max_examples=25, deadline=None)
@given(k=st.integers(1, 6), b=st.integers(0, 7), rows=st.sampled_from([None, 1, 2, 5, 100]))
def test_predict_is_the_mean_over_references_at_any_budget(k, b, rows):
    torch.manual_seed(k * 10 + b)
    model = disturb(kedge.anchor(SmallNet().eval(), example=(3, 12, 12)))
    model.references = torch.rand(6, 3, 12, 12)
    images = torch.rand(b, 3, 12, 12)
    prediction = model.predict(images, references=k, keep_per_reference=True, max_rows=rows)
    expected = torch.stack([model(images, r[None].expand(b, -1, -1, -1)) for r in model.references[:k]])
    assert prediction.per_reference.shape == (k, b, 5)
    assert torch.allclose(prediction.per_reference, expected, atol=1e-5)
    assert torch.allclose(prediction.logits, expected.mean(0), atol=1e-5)
    assert torch.equal(prediction.label, prediction.probs.argmax(1))
    assert torch.equal(prediction.confidence, prediction.probs.amax(1))
    if k == 1:
        assert prediction.uncertainty is None
    elif b > 0:
        assert torch.allclose(prediction.uncertainty, expected.sigmoid().std(0).mean(1), atol=1e-5)


def test_predict_takes_references_and_computes_the_first_layer_once(model):
    images, bank = torch.rand(4, 3, 16, 16), torch.rand(5, 3, 16, 16)
    rows = []
    model.stem.residual.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    prediction = model.predict(images, references=bank, keep_per_reference=True)
    assert sum(rows) == 4
    for r, logits in zip(bank, prediction.per_reference, strict=True):
        assert torch.allclose(model(images, r[None].expand_as(images)), logits, atol=1e-5)


def test_predict_leaves_the_modes_alone_and_has_no_gradient(model):
    model.train()
    model.network.norm.eval()
    prediction = model.predict(torch.rand(3, 3, 16, 16))
    assert model.training
    assert not model.network.norm.training
    assert not prediction.logits.requires_grad


def test_more_references_than_the_bank_holds(model):
    with pytest.raises(ValueError, match="references=7, but the bank holds 6"):
        model.predict(torch.rand(1, 3, 16, 16), references=7)
    with pytest.raises(ValueError, match="references=0"):
        model.predict(torch.rand(1, 3, 16, 16), references=0)


def test_recalibration_is_the_authors_on_imagenet_and_off_as_theirs_on_cifar(model):
    images = torch.rand(4, 3, 16, 16)
    raw = model.predict(images, keep_per_reference=True)
    c = raw.per_reference.sigmoid().std(0).mean(1, keepdim=True)
    assert torch.equal(model.predict(images).logits, raw.logits)
    assert torch.allclose(raw.logits, raw.per_reference.mean(0), atol=1e-6)
    assert torch.allclose(model.predict(images, recalibrate="exp").logits, raw.logits / (1 + c.exp()), atol=1e-6)
    assert torch.allclose(model.predict(images, recalibrate="divide").logits, raw.logits / c, rtol=1e-4)
    with pytest.raises(ValueError, match="recalibrate"):
        model.predict(images, recalibrate="temperature")
    with pytest.raises(ValueError, match="two or more references"):
        model.predict(images, references=1, recalibrate="exp")


def test_regression_reports_the_spread_of_the_outputs():
    net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    model = disturb(kedge.anchor(net, example=(4,), task="regression"))
    model.references = torch.randn(5, 4)
    prediction = model.predict(torch.randn(3, 4), keep_per_reference=True)
    assert prediction.probs is None
    assert torch.allclose(prediction.uncertainty, prediction.per_reference.std(0))


def test_blt_finds_the_pair_that_a_plain_search_finds(model):
    images = torch.rand(6, 3, 16, 16)
    model.residuals = torch.rand(7, 3, 16, 16) - model.references[torch.randint(6, (7,))]
    x = images[:, None, None] - model.references[None, :, None] - model.residuals[None, None]
    std = torch.tensor(STD).view(3, 1, 1)
    best = (x / std).square().sum((3, 4, 5)).amin(2).argmin(1)
    assert len(best.unique()) > 1
    expected = model(images, model.references[best])
    assert torch.allclose(model.predict(images, references="blt").logits, expected, atol=1e-5)


def test_blt_without_residuals_says_how_to_get_them(model):
    with pytest.raises(ValueError, match="choose_residuals"):
        model.predict(torch.rand(1, 3, 16, 16), references="blt")


def test_references_of_another_size_are_resized(model):
    images = torch.rand(2, 3, 16, 16)
    model.references = torch.rand(2, 3, 40, 24)
    resized = F.interpolate(model.references, (16, 16), mode="bilinear", antialias=True)
    assert torch.allclose(model(images), model(images, resized[:1]), atol=1e-5)
    larger = torch.rand(2, 3, 24, 24)
    assert model.predict(larger).logits.shape == (2, 5)


@pytest.mark.parametrize(
    ("bank", "match"),
    [
        (torch.rand(2, 4, 8, 8), "shape"),
        (torch.rand(0, 3, 8, 8), "K >= 1"),
        (torch.rand(2, 3, 8, 8) * 255, r"in \[0, 1\]"),
        (torch.full((1, 3, 8, 8), torch.nan), r"in \[0, 1\]"),
        (torch.zeros(2, 3, 8, 8, dtype=torch.uint8), "255"),
        ("photos", "tensor"),
    ],
)
def test_a_bad_bank_is_refused(model, bank, match):
    with pytest.raises((ValueError, TypeError), match=match):
        model.references = bank


def test_the_default_bank_is_zero_after_normalisation(net):
    model = kedge.anchor(net, example=(3, 16, 16), mean=MEAN, std=STD)
    assert model.references.shape == (1, 3, 16, 16)
    assert model.normalise(model.references).abs().max() < 1e-6


def test_a_state_dict_with_another_bank_loads(model, net):
    model.residuals = torch.rand(3, 3, 16, 16) - 0.5
    other = kedge.anchor(net, example=(3, 16, 16), mean=MEAN, std=STD)
    images = torch.rand(2, 3, 16, 16)
    other(images)
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.references, model.references)
    assert torch.equal(other.residuals, model.residuals)
    assert torch.equal(other(images), model(images))
    model.load_state_dict(kedge.anchor(net, example=(3, 16, 16), mean=MEAN, std=STD).state_dict())
    assert model.residuals is None


def edits():
    def in_place(model):
        with torch.no_grad():
            model.stem.reference.weight.mul_(2)

    def through_data(model):
        model.stem.reference.weight.data.mul_(2)

    def replaced(model):
        model.references = torch.rand(3, 3, 16, 16)

    def bank_in_place(model):
        model.references.mul_(0.5)

    def loaded(model):
        state = {n: v * 1.5 if v.is_floating_point() else v for n, v in model.state_dict().items()}
        model.load_state_dict({**state, "references": torch.rand(6, 3, 16, 16)})

    def optimised(model):
        optimizer = torch.optim.SGD(model.parameters(), 0.5)
        F.cross_entropy(model(torch.rand(4, 3, 16, 16)), torch.arange(4)).backward()
        optimizer.step()

    def moved(model):
        model.double()

    return [in_place, through_data, replaced, bank_in_place, loaded, optimised, moved]


@pytest.mark.parametrize("edit", edits(), ids=lambda e: e.__name__)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_kept_terms_notice_every_change(model, edit, mode):
    images = torch.rand(4, 3, 16, 16)
    with mode():
        before = model(images)
        model.predict(images, references=3)
    edit(model)
    with mode():
        fresh = copy.deepcopy(model)
        assert edit.__name__ == "moved" or not torch.equal(model(images), before)
        single = fresh(images, fresh.references[:1].expand(4, -1, -1, -1))
        assert torch.allclose(model(images), single, atol=1e-5)
        expected = fresh.predict(images, references=fresh.references[:3]).logits
        assert torch.allclose(model.predict(images, references=3).logits, expected, atol=1e-6)


def test_kept_terms_are_kept(model):
    calls = []
    original = type(model.stem).reference_terms
    model.stem.reference_terms = lambda r: calls.append(len(r)) or original(model.stem, r)
    with torch.no_grad():
        for _ in range(3):
            model(torch.rand(2, 3, 16, 16))
    assert calls == [1]


def test_gradients_reach_the_reference_half_in_eval_mode(model):
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    assert model.stem.reference.weight.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("images", "kind", "match"),
    [
        (torch.rand(3, 16, 16), ValueError, "add a batch axis"),
        (torch.rand(2, 1, 16, 16), ValueError, r"\[B, 3, 16, 16\]"),
        (torch.zeros(2, 3, 16, 16, dtype=torch.uint8), TypeError, "/ 255"),
    ],
)
def test_wrong_images_are_explained(model, images, kind, match):
    with pytest.raises(kind, match=match):
        model(images)


def test_wrong_references_and_masks_are_explained(model):
    images = torch.rand(4, 3, 16, 16)
    with pytest.raises(ValueError, match=r"one for each of the 4 images or a single one, \[1, \.\.\.\], got \[3"):
        model(images, torch.rand(3, 3, 16, 16))
    with pytest.raises(ValueError, match="mask must be a bool tensor"):
        model(images, mask=torch.ones(4))


def test_masking_hides_the_reference_from_the_slot_only(model):
    images, reference = torch.rand(3, 3, 16, 16), torch.rand(1, 3, 16, 16)
    mask = torch.ones(3, dtype=torch.bool)
    expected = concatenated(model)(tuple_input(images, reference.expand_as(images), mask))
    assert torch.allclose(model(images, reference, mask), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("training", "mode"), [(True, torch.enable_grad), (False, torch.enable_grad), (False, torch.no_grad)]
)
def test_compiles_without_breaks(model, training, mode):
    model.train(training)
    images, references = torch.rand(4, 3, 16, 16), torch.rand(4, 3, 16, 16)
    reset = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    args = (images, references, torch.tensor([True, False, False, True])) if training else (images,)
    with mode():
        assert torch.allclose(compiled(*args), reset(*args), atol=1e-6)


def test_autocast_keeps_a_small_reference_term(net):
    model = kedge.anchor(net, example=(3, 16, 16), mean=MEAN, std=STD)
    with torch.no_grad():
        model.stem.reference.weight.add_(1e-3 * torch.randn_like(model.stem.reference.weight))
    r = torch.rand(4, 3, 16, 16)
    exact = model.stem.reference_terms(model.normalise(r))
    with torch.autocast("cpu", torch.bfloat16):
        term = model.stem.reference_terms(model.normalise(r))
        assert torch.allclose(term, exact)
        assert model(r).dtype == torch.bfloat16


def test_threads_do_not_mix_their_references(model):
    from concurrent.futures import ThreadPoolExecutor

    images, banks = torch.rand(2, 3, 16, 16), torch.rand(4, 2, 3, 16, 16)
    expected = [model.predict(images, references=bank).logits for bank in banks]

    def work(i):
        return all(torch.equal(model.predict(images, references=banks[i]).logits, expected[i]) for _ in range(60))

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(work, range(4)))


def test_a_copy_and_a_pickle_answer_alike(model):
    import pickle

    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        expected = model(images)
        assert torch.equal(copy.deepcopy(model)(images), expected)
        assert torch.equal(pickle.loads(pickle.dumps(model))(images), expected)


def test_under_autocast_an_opaque_stem_keeps_a_small_reference_term():
    model = kedge.anchor(nn.Sequential(nn.Conv2d(4, 8, 3, groups=2), nn.Flatten()), example=(4, 8, 8)).eval()
    with torch.no_grad():
        model.stem.reference.weight.add_(1e-3 * torch.randn_like(model.stem.reference.weight))
        r, x = torch.rand(2, 5, 4, 8, 8)
        true, exact = model.stem.reference_terms(r), model.stem.residual(x)
        with torch.autocast("cpu", torch.bfloat16):
            rounding = (model.stem.residual(x).float() - exact).abs().mean()
            error = (model.stem(torch.cat([x, r], 1)).float() - exact - true).abs().mean()
    # Subtracting f_r(r) - f_d(r) in bf16 would add two more roundings.
    assert error < 1.3 * rounding


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_models_resize_their_references(net, dtype):
    model = disturb(kedge.anchor(net, example=(3, 16, 16)))
    model.references = torch.rand(2, 3, 10, 10)
    images = torch.rand(2, 3, 20, 20)
    expected = model(images)
    assert torch.allclose(model.to(dtype)(images).float(), expected, atol=0.1)


def test_half_models_keep_the_terms_of_opaque_stems_in_float32():
    stem = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3))
    model = disturb(kedge.anchor(nn.Sequential(stem, nn.Flatten()), example=(3, 8, 8)), 0.02)
    model.bfloat16()
    r = torch.rand(3, 3, 8, 8).bfloat16()
    exact = copy.deepcopy(model.stem).float().reference_terms(r.float())
    assert torch.allclose(model.stem.reference_terms(r), exact, atol=1e-6)


def test_double_precision_is_double_throughout(net):
    model = disturb(kedge.anchor(net.double(), example=(3, 8, 8), mean=0.5, std=0.3))
    images, reference = torch.rand(2, 3, 8, 8).double(), torch.rand(1, 3, 8, 8).double()
    with torch.no_grad():
        shared, stacked = model(images, reference), model(images, reference.expand_as(images))
    assert torch.allclose(shared, stacked, atol=1e-13, rtol=0)
    assert model.predict(images, references=reference).logits.dtype == torch.float64


def test_the_first_layer_sees_an_image_once_in_a_pass_whatever_the_references(model):
    rows = []
    model.stem.residual.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    bank = torch.rand(70, 3, 16, 16)
    prediction = model.predict(torch.rand(2, 3, 16, 16), references=bank)
    assert rows == [2] * 5  # 70 references, 14 of them beside one another in each of 5 passes of 28 rows
    assert prediction.logits.shape == (2, 5)


def test_what_a_hook_on_the_first_layer_sees_is_left_alone(model):
    seen, images = [], torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        expected = model.eval()(images)
        model.stem.residual.register_forward_hook(lambda _, __, out: seen.append((out, out.clone())))
        assert torch.equal(model(images), expected)
    assert torch.equal(*seen[0])


def test_what_a_hook_on_all_modules_sees_is_left_alone(model):
    seen, images = [], torch.rand(3, 3, 16, 16)
    folded = model.eval().fold()
    handle = torch.nn.modules.module.register_module_forward_hook(
        lambda module, _, out: seen.append((out, out.clone())) if isinstance(module, torch.nn.Conv2d) else None
    )
    try:
        with torch.no_grad():
            model(images)
            folded(images)
    finally:
        handle.remove()
    assert seen
    assert all(torch.equal(*each) for each in seen)


def test_kept_terms_carry_no_graph(model):
    model.predict(torch.rand(3, 3, 16, 16))
    assert not model._cache.bank[2].requires_grad


def test_activation_checkpointing_of_the_first_layer():
    from torch.utils.checkpoint import checkpoint

    class Saving(SmallNet):
        def forward(self, x):
            x = checkpoint(lambda z: torch.relu(self.norm(self.stem(z))), x, use_reentrant=False)
            return self.head(x.mean((2, 3)))

    model = disturb(kedge.anchor(Saving().eval(), example=(3, 16, 16)))
    model(torch.rand(2, 3, 16, 16)).sum().backward()
    assert model.stem.reference.weight.grad is not None


def test_references_of_the_wrong_kind_are_explained(model):
    images = torch.rand(3, 3, 16, 16)
    with pytest.raises(TypeError, match="floating point in"):
        model(images, torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    with pytest.raises(ValueError, match=r"got \[3, 16, 16\]"):
        model(images, images[0])
    for number in (2.7, True):
        with pytest.raises(TypeError, match="whole number"):
            model.predict(images, references=number)
    with pytest.raises(TypeError, match="references must be a floating-point tensor"):
        model.references = None


@pytest.mark.parametrize(
    "bank",
    [
        torch.rand(0, 3, 16, 16),
        torch.rand(2, 4, 16, 16),
        torch.full((1, 3, 16, 16), 9.0),
        torch.ones(1, 3, 2, 2, dtype=torch.long),
    ],
)
def test_a_state_dict_with_a_bad_bank_is_refused(model, bank):
    with pytest.raises(RuntimeError, match="references must"):
        model.load_state_dict({**model.state_dict(), "references": bank})


def test_training_outputs_that_are_not_logits_are_explained():
    class Auxiliary(SmallNet):
        def forward(self, x):
            return (super().forward(x), x) if self.training else super().forward(x)

    model = kedge.anchor(Auxiliary().eval(), example=(3, 16, 16)).train()
    with pytest.raises(TypeError, match="returns tuple in training mode"):
        model(torch.rand(2, 3, 16, 16))


def test_anchored_in_inference_mode_trains_afterwards(net):
    with torch.inference_mode():
        model = kedge.anchor(net, example=(3, 16, 16))
    model.train()(torch.rand(2, 3, 16, 16)).sum().backward()
    assert model.stem.reference.weight.grad is not None


def test_sequences_and_volumes():
    for layer, shape in ((nn.Conv1d(2, 4, 3), (2, 12)), (nn.Conv3d(2, 4, 3), (2, 6, 6, 6))):
        model = disturb(kedge.anchor(nn.Sequential(layer, nn.Flatten()), example=shape)).eval()
        model.references = torch.rand(2, shape[0], *[n + 2 for n in shape[1:]])
        images = torch.rand(3, *shape)
        with torch.no_grad():
            bank = model(images)
        assert torch.allclose(bank, model(images, model.references[:1]), atol=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 2**16))
def test_references_together_are_never_worse_than_alone_on_average(count, seed):
    """Jensen: NLL is convex in logits and in probabilities, whatever the network is, so that of a mean is no larger."""
    torch.manual_seed(seed)
    model = disturb(kedge.anchor(SmallNet(3), example=(3, 16, 16), references=torch.rand(count, 3, 16, 16))).eval()
    images, labels = torch.rand(5, 3, 16, 16), torch.randint(0, 4, (5,))
    prediction = model.predict(images, keep_per_reference=True)
    each = prediction.per_reference
    alone = torch.stack([F.cross_entropy(logits, labels % logits.shape[1]) for logits in each]).mean()
    labels = labels % each.shape[2]
    assert F.nll_loss(each.softmax(-1).mean(0).log(), labels) <= alone + 1e-5
    assert F.cross_entropy(prediction.logits, labels) <= alone + 1e-5


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_what_the_first_layer_reads_is_bit_for_bit_both_normalised(model, masked, layout):
    images = torch.rand(4, *model.input_shape).contiguous(memory_format=layout)
    references = images[[1, 2, 3, 0]]
    kept = images.clone(), references.clone()
    mask = torch.tensor([True, False, False, True]) if masked else None
    read = []
    hook = model.stem.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0].detach().clone()))
    model.train()(images, references, mask)
    hook.remove()
    x, r = ((each - model.mean) / model.std for each in kept)
    if mask is not None:
        x[mask] -= r[mask]
        r[mask] = 0
    assert torch.equal(read[0], torch.cat([x, r], 1))
    assert torch.equal(images, kept[0])
    assert torch.equal(references, kept[1])
