import warnings
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kedge.attacks import FGSM, PGD, distance
from kedge.objectives._views import BoundReferences


def accuracy(model, images, labels):
    with torch.no_grad():
        return float((model(images).argmax(1) == labels).float().mean())


class Linear(nn.Module):
    """Two classes: logits (0, w·x + b), so the loss of class 0 rises along w."""

    def __init__(self, weight):
        super().__init__()
        self.weight = nn.Parameter(weight)

    def forward(self, x):
        score = (x * self.weight).flatten(1).sum(1) - 0.5 * self.weight.sum()
        return torch.stack([torch.zeros_like(score), score], 1)


# The optimum on a linear model is known


@pytest.mark.parametrize("loss", ["ce", "margin"])
@pytest.mark.parametrize("norm", ["linf", "l2"])
@pytest.mark.parametrize("random_start", [True, False])
def test_linear_model_where_the_optimum_is_known(norm, loss, random_start):
    weight = torch.randn(3, 8, 8) * 0.05
    images, labels = 0.3 + 0.4 * torch.rand(6, 3, 8, 8), torch.tensor([0, 1, 0, 1, 0, 1])
    eps = 0.05 if norm == "linf" else 0.2
    away = weight.sign() if norm == "linf" else weight / weight.norm()
    best = images + eps * away * torch.where(labels == 0, 1, -1).view(-1, 1, 1, 1)
    attack = PGD(eps, 40, eps / 4, norm, loss=loss, random_start=random_start)
    found = attack(Linear(weight), images, labels)
    torch.testing.assert_close(found, best, atol=1e-4, rtol=0)


def test_fgsm_is_one_signed_step():
    weight = torch.randn(3, 8, 8)
    images, labels = torch.rand(6, 3, 8, 8), torch.zeros(6, dtype=torch.long)
    found = FGSM(8 / 255)(Linear(weight * 0.01), images, labels)
    torch.testing.assert_close(found, (images + 8 / 255 * weight.sign()).clamp(0, 1))


def test_probabilities_as_targets_and_targeted(net, batch):
    images, labels = batch
    soft = nn.functional.one_hot(labels, 5).float()
    torch.testing.assert_close(PGD(0.03)(net, images, soft), PGD(0.03)(net, images, labels))
    smooth = 0.9 * soft + 0.02
    leaf = images.clone().requires_grad_()
    nn.functional.cross_entropy(net(leaf), smooth, reduction="sum").backward()
    expected = (images + 0.03 * leaf.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(0.03)(net, images, smooth), expected)
    wanted = (labels + 1) % 5
    for loss in ("ce", "margin"):
        reached = PGD(0.1, targeted=True, loss=loss)(net, images, wanted)
        assert accuracy(net, reached, wanted) > accuracy(net, images, wanted)


def test_margin_is_the_textbook_one(net, batch):
    images, labels = batch
    leaf = images.clone().requires_grad_()
    logits = net(leaf)
    margins = [max(row[j] for j in range(5) if j != y) - row[y] for row, y in zip(logits, labels.tolist(), strict=True)]
    torch.stack(margins).sum().backward()
    expected = (images + 0.02 * leaf.grad.sign()).clamp(0, 1)
    torch.testing.assert_close(FGSM(0.02, loss="margin")(net, images, labels), expected)


def test_foolbox_finds_what_we_find(trained, digits):
    foolbox = pytest.importorskip("foolbox")
    images, labels = (part[:200] for part in digits[1])
    theirs = foolbox.PyTorchModel(trained, bounds=(0, 1))
    for norm, eps, other in (
        ("linf", 0.1, foolbox.attacks.LinfPGD(steps=20, abs_stepsize=0.02, random_start=False)),
        ("l2", 0.7, foolbox.attacks.L2PGD(steps=20, abs_stepsize=0.14, random_start=False)),
    ):
        _, expected, _ = other(theirs, images, labels, epsilons=eps)
        attack = PGD(eps, 20, eps / 5, norm, random_start=False, keep="last")
        found = attack(trained, images, labels)
        # The same iteration; a sign of a gradient that is zero but for rounding may differ.
        assert float(((found - expected).abs() < 1e-4).float().mean()) > 0.99
        assert abs(accuracy(trained, found, labels) - accuracy(trained, expected, labels)) <= 0.01


# What holds whatever the input


@settings(max_examples=40, deadline=None)
@given(
    eps=st.sampled_from([0.0, 1 / 255, 8 / 255, 0.3, 1.0]),
    norm=st.sampled_from(["linf", "l2"]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
    size=st.integers(0, 4),
    options=st.sampled_from([{}, {"early_stop": True, "restarts": 2}, {"keep": "last"}, {"random_start": False}]),
    edge=st.sampled_from(["inside", "corners"]),
)
def test_within_eps_and_unit_range(eps, norm, dtype, size, options, edge):
    model = Linear(torch.randn(3, 4, 4, dtype=torch.float64)).to(dtype)
    images = torch.rand(size, 3, 4, 4).to(dtype)
    images = images.round() if edge == "corners" else images
    labels = torch.arange(size) % 2
    found = PGD(eps, 3, norm=norm, **options)(model, images, labels)
    assert found.dtype == dtype
    assert found.shape == images.shape
    assert not found.requires_grad
    if size:
        assert float(distance(found, images, norm).max()) <= eps + 1e-6
        assert 0 <= float(found.min()) <= float(found.max()) <= 1
    if eps == 0:
        assert torch.equal(found, images)


def test_bfloat16_really_moves_and_stays_inside(net, batch):
    images, labels = batch
    half = net.to(torch.bfloat16)
    found = PGD(8 / 255)(half, images.bfloat16(), labels)
    # The nearest bfloat16 number inside the ball is up to 1/256 closer than eps.
    reached = distance(found, images.bfloat16())
    assert float(reached.max()) <= 8 / 255
    assert float(reached.min()) > 5 / 255


def test_more_steps_never_help_the_defender(trained, digits):
    images, labels = digits[1]
    clean = accuracy(trained, images, labels)
    robust = [accuracy(trained, PGD(0.12, n, 0.02)(trained, images, labels), labels) for n in (1, 3, 10, 30)]
    assert clean > 0.95
    assert robust == sorted(robust, reverse=True)
    assert robust[-1] < 0.5 * clean
    assert robust[-1] < robust[0] - 0.1
    # With the last point instead of the worst, up to noise.
    last = [accuracy(trained, PGD(0.12, n, 0.02, keep="last")(trained, images, labels), labels) for n in (3, 10, 30)]
    assert all(after <= before + 0.01 for before, after in pairwise(last))


def test_larger_balls_and_more_restarts_break_more(trained, digits):
    images, labels = digits[1]
    by_eps = [accuracy(trained, PGD(eps)(trained, images, labels), labels) for eps in (0, 0.03, 0.1, 0.2, 0.5)]
    assert by_eps == sorted(by_eps, reverse=True)
    assert by_eps[-1] == 0
    once, often = (accuracy(trained, PGD(0.1, 3, restarts=n)(trained, images, labels), labels) for n in (1, 5))
    assert often <= once


def test_early_stop_gives_the_same_accuracy(trained, digits):
    images, labels = digits[1]
    for options in ({}, {"restarts": 3}, {"norm": "l2", "eps": 0.5}):
        options = {"eps": 0.08, "steps": 10, **options}
        whole, early = (PGD(**options, early_stop=e)(trained, images, labels) for e in (False, True))
        right = [trained(x).argmax(1) == labels for x in (whole, early)]
        assert torch.equal(*right)
        assert 0.05 < float(right[0].float().mean()) < 0.95


def test_the_batch_an_image_is_in_does_not_matter(trained, digits):
    images, labels = (part[:60] for part in digits[1])
    for attack in (PGD(0.05, 3), PGD(0.4, 3, norm="l2", restarts=2), PGD(0.05, 3, early_stop=True)):
        whole = attack(trained, images, labels, indices=torch.arange(60))
        parts = [
            attack(trained, images[i : i + 13], labels[i : i + 13], indices=range(i, min(i + 13, 60)))
            for i in range(0, 60, 13)
        ]
        torch.testing.assert_close(torch.cat(parts), whole, atol=1e-5, rtol=0)
    start = PGD(0.05, 1, 1e-9, keep="last")
    same = start(trained, images[:2] * 0 + 0.5, labels[:2], indices=[5, 5])
    other = start(trained, images[:2] * 0 + 0.5, labels[:2], indices=[5, 6])
    assert torch.equal(same[0], same[1])
    assert not torch.allclose(other[0], other[1], atol=0.01)


def test_draws(net, batch):
    images, labels = batch
    torch.manual_seed(5)
    one, two = PGD(0.05, 1, seed=3)(net, images, labels), PGD(0.05, 1, seed=3)(net, images, labels)
    assert torch.equal(one, two)
    assert not torch.equal(one, PGD(0.05, 1, seed=4)(net, images, labels))
    # Seeded draws leave the global generator alone; fresh ones differ from call to call.
    expected = torch.Generator().manual_seed(5)
    assert torch.equal(torch.rand(3), torch.rand(3, generator=expected))
    fresh = PGD(0.05, 1, seed=None)
    assert not torch.equal(fresh(net, images, labels), fresh(net, images, labels))
    by_hand = [PGD(0.05, 1)(net, images, labels, generator=torch.Generator().manual_seed(s)) for s in (1, 1, 2)]
    assert torch.equal(by_hand[0], by_hand[1])
    assert not torch.equal(by_hand[0], by_hand[2])


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_uniform_in_the_ball(net, norm):
    images = torch.full((4000, 1, 2, 2), 0.5)
    attack = PGD(0.2, 1, 1e-9, norm, keep="last")
    away = attack(lambda x: x.flatten(1), images, torch.zeros(4000, dtype=torch.long)) - 0.5
    assert float(away.mean().abs()) < 0.005
    if norm == "linf":
        assert float(away.square().mean()) == pytest.approx(0.2**2 / 3, rel=0.03)
    else:
        # E |δ|² = eps² D / (D + 2) in a ball of dimension D.
        assert float(away.flatten(1).square().sum(1).mean()) == pytest.approx(0.2**2 * 4 / 6, rel=0.03)


# How the model is treated


def test_modes_parameters_and_statistics_are_left_as_they_were(net, batch):
    images, labels = batch
    net.train()
    net.norm.eval()
    for i, parameter in enumerate(net.parameters()):
        parameter.requires_grad_(i % 2 == 0)
        parameter.grad = torch.full_like(parameter, 7) if i % 4 == 0 else None
    wanted = [p.requires_grad for p in net.parameters()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    seen = []
    handle = net.register_forward_pre_hook(lambda module, _: seen.append([m.training for m in module.modules()]))
    with torch.no_grad():
        PGD(0.03, 3)(net, images, labels)
    assert not any(any(modes) for modes in seen)
    assert len(seen) == 4
    handle.remove()
    assert [m.training for m in net.modules()] == [True, True, False, True, True]
    assert [p.requires_grad for p in net.parameters()] == wanted
    assert all(p.grad is None or bool((p.grad == 7).all()) for p in net.parameters())
    assert all(torch.equal(state[k], v) for k, v in net.state_dict().items())

    def fail(*_):
        raise RuntimeError("out of memory, say")

    net.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="say"):
        PGD(0.03, 3)(net, images, labels)
    assert [m.training for m in net.modules()] == [True, True, False, True, True]


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_callers_without_gradients(net, batch, context):
    images, labels = batch
    expected = PGD(0.03, 3)(net, images, labels)
    with context():
        found = PGD(0.03, 3)(net, images * 1, labels + 0)
    assert torch.equal(found, expected)
    found.requires_grad_()


def test_memory_format_is_kept(net, batch):
    images, labels = batch
    images = images.contiguous(memory_format=torch.channels_last)
    for attack in (
        PGD(0.03, 3),
        PGD(0.3, 3, norm="l2", keep="last"),
        PGD(0.03, 3, early_stop=True),
        FGSM(0.03),
        PGD(0),
    ):
        found = attack(net.to(memory_format=torch.channels_last), images, labels)
        assert found.is_contiguous(memory_format=torch.channels_last)


class _Waits(TorchDispatchMode):
    """Counts what would wait for a device: values read by Python, and shapes that depend on values."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default)
        return function(*args, **(kwargs or {}))


def test_no_step_waits_for_the_device(net, batch):
    def waits(**options):
        with _Waits() as found:
            PGD(0.03, **options)(net, *batch)
        return found.count

    assert waits(steps=3) == waits(steps=12)
    assert waits(steps=3, early_stop=True) > waits(steps=3)


def test_a_training_step_with_references_bound(anchored, batch):
    images, labels = batch
    references, mask = torch.rand_like(images), torch.arange(12) % 3 == 0
    bound = BoundReferences(anchored.train(), references, mask, None)
    seen = []
    anchored.network.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    found = PGD(0.05, 4, seed=None, keep="last")(bound, images, labels)
    assert anchored.training
    assert bound.training
    slots = [inputs[:, 3:] for inputs in seen]
    assert len(slots) == 4
    assert all(torch.equal(slot, slots[0]) for slot in slots)
    anchored.eval()
    before, after = (nn.functional.cross_entropy(bound(x), labels).detach() for x in (images, found))
    assert float(after) > float(before)


def test_a_compiled_model(net, batch):
    images, labels = batch
    graphs = []

    def backend(graph, _):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(net, backend=backend, fullgraph=True)
    found = PGD(0.03, 3)(compiled, images, labels)
    torch.testing.assert_close(found, PGD(0.03, 3)(net, images, labels))
    # One graph with gradients, one for the last look without.
    assert len(graphs) <= 2


# Bad input


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"eps": -0.1}, "0 or more"),
        ({"eps": float("nan")}, "0 or more"),
        ({"eps": 8}, "pixel units of \\[0, 1\\].*8/255"),
        ({"eps": 0.1, "norm": "l1"}, "norm must be one of"),
        ({"eps": 0.1, "steps": 0}, "steps must be a whole number"),
        ({"eps": 0.1, "step_size": 0}, "step_size must be positive"),
        ({"eps": 0.1, "loss": "dlr"}, "loss must be one of"),
        ({"eps": 0.1, "restarts": 2, "random_start": False}, "do the same thing again"),
        ({"eps": 0.1, "early_stop": True, "keep": "last"}, "worst"),
        ({"eps": 0.1, "keep": "best"}, "keep must be"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(ValueError, match=words):
        PGD(**options)


def test_large_eps_in_l2_warns():
    with pytest.warns(UserWarning, match="pixel units"):
        PGD(128, norm="l2")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PGD(3.0, norm="l2")


def test_bad_batches(net, batch):
    images, labels = batch
    attack = PGD(0.03, 2)
    with pytest.raises(TypeError, match="images / 255"):
        attack(net, (images * 255).to(torch.uint8), labels)
    with pytest.raises(ValueError, match="must be in \\[0, 1\\]"):
        attack(net, images * 255, labels)
    with pytest.raises(ValueError, match="class indices \\[12\\]"):
        attack(net, images, labels[:3])
    with pytest.raises(ValueError, match="probabilities \\[12, 5\\]"):
        attack(net, images, torch.rand(12, 4))
    with pytest.raises(ValueError, match="not finite"):
        attack(lambda x: net(x) * float("nan"), images, labels)
    with pytest.raises(ValueError, match="no gradient"):
        attack(lambda x: net(x.detach()).detach(), images, labels)
    with pytest.raises(ValueError, match="no gradient"):
        attack(lambda x: net(x.detach()), images, labels)
    with pytest.raises(ValueError, match="logits \\[12, C\\]"):
        attack(lambda x: net(x).sum(1), images, labels)
    with pytest.raises(ValueError, match="indices must be one for each"):
        attack(net, images, labels, indices=[1, 2])
    with pytest.raises(TypeError, match="over_references needs an anchored model"):
        PGD(0.03, over_references=2)(net, images, labels)


def test_a_gradient_of_nan_is_an_error_and_not_robustness():
    class Silent(nn.Module):
        """Finite logits, no usable gradient: the branch not taken hands NaN back."""

        def forward(self, x):
            score = x.flatten(1).sum(1)
            score = torch.where(score >= 0, score, score * torch.nan)
            return torch.stack([score + (x.flatten(1)[:, 0] * 0).sqrt(), -score], 1)

    images = torch.rand(4, 1, 3, 3)
    assert Silent()(images).isfinite().all()
    with pytest.raises(ValueError, match="gradient is not finite"):
        PGD(0.1, 2)(Silent(), images, torch.zeros(4, dtype=torch.long))
