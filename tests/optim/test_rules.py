"""Gradient rules: SAM against a step by hand, OrthoGrad against its formula, and both as optimizers of any loop."""

import copy
import pickle
from dataclasses import fields

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn

from kedge import catalog, optim
from kedge.optim import SAM, SGD, AdamW, OrthoGrad
from kedge.optim.rules.orthograd import orthogonal
from kedge.training.nested import FLAT, ROOMS
from kedge.training.recipe import Recipe

RULES = catalog.names("optim.rules")
X = torch.tensor([[1.0, 2.0, -1.0], [0.5, -1.5, 2.0], [-2.0, 0.0, 1.0], [1.0, 1.0, 1.0]])
Y = torch.tensor([1.0, -2.0, 0.5, 3.0])
START = [0.3, -0.2, 0.8]


def least_squares():
    """A weight, and the closure of its mean squared error."""
    w = nn.Parameter(torch.tensor(START))

    def closure():
        w.grad = None
        loss = (X @ w - Y).square().mean()
        loss.backward()
        return loss.detach()

    return w, closure


def slope(w):
    """The gradient by hand, in float64."""
    x, y = X.double().numpy(), Y.double().numpy()
    return 2 * x.T @ (x @ w - y) / len(y)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.3), nn.Flatten(), nn.Linear(4 * 36, 3)
    )


def trained(make, steps=5, broken_off=None):
    """The state of a network with batch norm and dropout after some steps by a rule, and the losses."""
    model = network()
    optimizer = make(model)
    schedule = optim.cosine(optimizer, steps + 1)
    losses = []
    for step in range(steps):
        if step == broken_off:
            saved = pickle.dumps([each.state_dict() for each in (model, optimizer, schedule)])
            model = network()
            optimizer = make(model)
            schedule = optim.cosine(optimizer, steps + 1)
            for each, state in zip((model, optimizer, schedule), pickle.loads(saved), strict=True):
                each.load_state_dict(state)
        draws = torch.Generator().manual_seed(step)
        images, labels = torch.rand(8, 1, 8, 8, generator=draws), torch.randint(3, (8,), generator=draws)

        def closure(step=step, images=images, labels=labels, model=model, optimizer=optimizer):
            torch.manual_seed(step)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            return loss.detach()

        losses.append(float(optimizer.step(closure)))
        schedule.step()
    return model.state_dict(), losses, optimizer


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


# SAM


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sam_by_hand(momentum):
    w, closure = least_squares()
    rule = SAM(torch.optim.SGD([w], lr=0.1, momentum=momentum), rho=0.5)
    hand, velocity = np.array(START), np.zeros(3)
    for _ in range(4):
        loss = rule.step(closure)
        assert float(loss) == pytest.approx(np.mean((X.numpy() @ hand - Y.numpy()) ** 2), rel=1e-5)
        gradient = slope(hand)
        velocity = momentum * velocity + slope(hand + 0.5 * gradient / np.linalg.norm(gradient))
        hand = hand - 0.1 * velocity
        assert w.detach().numpy() == pytest.approx(hand, rel=1e-5)


def test_sam_climbs_along_the_gradient_of_all_tensors_together():
    # Two tensors whose gradients (3) and (4) have the norm 5: the points are 0.6 and 0.8 of rho away.
    a, b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([2.0]))
    seen = []

    def closure():
        seen.append((a.item(), b.item()))
        a.grad, b.grad = torch.tensor([3.0]), torch.tensor([4.0])
        return 0.0

    SAM(torch.optim.SGD([{"params": [a]}, {"params": [b], "lr": 1.0}], lr=0.1), rho=0.1).step(closure)
    assert seen[0] == (1, 2)
    assert seen[1] == pytest.approx((1.06, 2.08))
    assert (a.item(), b.item()) == pytest.approx((1 - 0.3, 2 - 4))


@pytest.mark.parametrize("inner", [SGD, AdamW])
def test_sam_at_no_distance_is_the_optimizer_inside_bit_for_bit(inner):
    plain, losses, _ = trained(lambda m: inner(m.parameters(), lr=0.1))
    sharp, others, _ = trained(lambda m: SAM(inner(m.parameters(), lr=0.1), rho=0.0, model=m))
    assert same(plain, sharp)
    assert losses == others


def test_batch_statistics_are_those_of_the_first_pass():
    plain, _, _ = trained(lambda m: SGD(m.parameters(), lr=0.1), steps=1)
    sharp, _, _ = trained(lambda m: SAM(SGD(m.parameters(), lr=0.1), rho=2.0, model=m), steps=1)
    both, _, _ = trained(lambda m: SAM(SGD(m.parameters(), lr=0.1), rho=2.0), steps=1)
    for name in ("1.running_mean", "1.running_var", "1.num_batches_tracked"):
        assert torch.equal(plain[name], sharp[name])
        assert not torch.equal(plain[name], both[name])
    assert not torch.equal(plain["0.weight"], sharp["0.weight"])


def test_a_limit_on_the_gradient_holds_for_the_one_that_is_stepped_by():
    w, closure = least_squares()

    def clipped():
        loss = closure()
        nn.utils.clip_grad_norm_([w], 0.1)
        return loss

    SAM(torch.optim.SGD([w], lr=1.0), rho=0.5).step(clipped)
    start = np.array(START)
    gradient = slope(start)
    gradient = slope(start + 0.5 * gradient / np.linalg.norm(gradient))
    assert w.detach().numpy() == pytest.approx(start - 0.1 * gradient / np.linalg.norm(gradient), rel=1e-4)


def test_sam_without_a_gradient_or_a_closure():
    w, _ = least_squares()
    w.grad = torch.zeros(3)
    rule = SAM(torch.optim.SGD([w], lr=1.0))
    rule.step(lambda: 0.0)
    assert w.tolist() == pytest.approx(START)
    w.grad = None
    rule.step(lambda: 0.0)
    with pytest.raises(ValueError, match="closure"):
        rule.step()
    with pytest.raises(ValueError, match="-1"):
        SAM(torch.optim.SGD([w], lr=1.0), rho=-1)


# OrthoGrad


def published(w, g):
    """As the authors' code has it, in float64 of numpy."""
    w, g = w.double().numpy().ravel(), g.double().numpy().ravel()
    across = g - (w @ g) / (w @ w + 1e-30) * w
    return across * (np.linalg.norm(g) / (np.linalg.norm(across) + 1e-30))


@pytest.mark.parametrize("shape", [(7,), (4, 5), (3, 2, 3, 3)])
def test_orthograd_is_the_projection(shape):
    draws = torch.Generator().manual_seed(len(shape))
    w, g = torch.randn(shape, generator=draws), torch.randn(shape, generator=draws)
    if len(shape) == 4:
        w = w.contiguous(memory_format=torch.channels_last)
    after = orthogonal(w, g)
    assert after.numpy().ravel() == pytest.approx(published(w, g), rel=1e-4, abs=1e-6)
    assert float((w * after).sum()) == pytest.approx(0, abs=1e-5)
    assert float(after.norm()) == pytest.approx(float(g.norm()), rel=1e-5)


def test_orthograd_of_named_vectors():
    w, g = torch.tensor([3.0, 4.0]), torch.tensor([1.0, 0.0])
    assert orthogonal(w, g).tolist() == pytest.approx([0.8, -0.6])
    assert orthogonal(w, g, rescale=False).tolist() == pytest.approx([0.64, -0.48])
    assert orthogonal(torch.zeros(2), g).tolist() == [1, 0]
    assert orthogonal(w, torch.zeros(2)).tolist() == [0, 0]


@pytest.mark.parametrize("scale", [1e-12, 0.123, 1e15])
@pytest.mark.parametrize("rescale", [True, False])
def test_a_gradient_along_its_weight_is_no_step_of_rounding(scale, rescale):
    w = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert orthogonal(w, scale * w, rescale).count_nonzero() == 0


def test_tensors_of_one_element_keep_their_gradient():
    # In float32 the authors' formula turns this one round.
    w = nn.Parameter(torch.tensor([0.3]))
    w.grad = torch.tensor([0.123])
    OrthoGrad(torch.optim.SGD([w], lr=1.0)).step()
    assert w.item() == pytest.approx(0.3 - 0.123)


def test_orthograd_of_float64_is_of_float64():
    draws = torch.Generator().manual_seed(0)
    w, g = (torch.randn(9, generator=draws, dtype=torch.float64) for _ in range(2))
    assert orthogonal(w, g).numpy() == pytest.approx(published(w, g), rel=1e-12)


def test_orthograd_projects_what_a_closure_computes():
    w, closure = least_squares()
    OrthoGrad(torch.optim.SGD([w], lr=0.1)).step(closure)
    expected = np.array(START) - 0.1 * published(torch.tensor(START), torch.tensor(slope(np.array(START))))
    assert w.detach().numpy() == pytest.approx(expected, rel=1e-5)


def test_wrappers_nest_both_ways():
    def across(w, g):
        return published(torch.tensor(w), torch.tensor(g))

    start = np.array(START)
    w, closure = least_squares()
    SAM(OrthoGrad(torch.optim.SGD([w], lr=0.1)), rho=0.5).step(closure)  # climbs along g, steps across w
    g = slope(start)
    assert w.detach().numpy() == pytest.approx(
        start - 0.1 * across(start, slope(start + 0.5 * g / np.linalg.norm(g))), rel=1e-4
    )
    w, closure = least_squares()
    OrthoGrad(SAM(torch.optim.SGD([w], lr=0.1), rho=0.5)).step(closure)  # climbs across w too
    g = across(start, slope(start))
    there = start + 0.5 * g / np.linalg.norm(g)
    assert w.detach().numpy() == pytest.approx(start - 0.1 * across(there, slope(there)), rel=1e-4)


# All of them


def wrapped(name, model):
    kind = catalog.get("optim.rules", name)
    inner = SGD(model.parameters(), lr=0.1)
    return kind(inner) if "inner" in catalog.arguments(kind) else kind(model.parameters(), lr=0.1)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_where_it_comes_from(name):
    assert catalog.info("optim.rules", name).year
    assert catalog.summary("optim.rules", name)
    assert getattr(optim, catalog.get("optim.rules", name).__name__) is catalog.get("optim.rules", name)


@pytest.mark.parametrize("name", RULES)
def test_the_state_of_a_rule_goes_on_bit_for_bit(name):
    whole, losses, _ = trained(lambda m: wrapped(name, m), steps=6)
    again, others, _ = trained(lambda m: wrapped(name, m), steps=6, broken_off=3)
    assert same(whole, again)
    assert losses == others


@pytest.mark.parametrize("name", RULES)
def test_a_rule_is_copied_with_what_is_inside(name):
    model = network()
    both = copy.deepcopy((model, wrapped(name, model)))
    assert {id(p) for g in both[1].param_groups for p in g["params"]} == {id(p) for p in both[0].parameters()}
    both[1].step(lambda: 0.0)


class Regression(LightningModule):
    """Least squares, in Lightning's automatic optimization."""

    def __init__(self, make):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(START))
        self.make = make

    def training_step(self, batch, index):
        return (X @ self.weight - Y).square().mean()

    def configure_optimizers(self):
        return self.make([self.weight])

    def train_dataloader(self):
        return [0] * 4


@pytest.mark.parametrize("name", RULES)
def test_lightnings_automatic_optimization_takes_a_rule(name, tmp_path):
    kind = catalog.get("optim.rules", name)

    def make(weights):
        inner = SGD(weights, lr=0.1)
        return kind(inner) if "inner" in catalog.arguments(kind) else kind(weights, lr=0.1)

    module = Regression(make)
    settings = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, enable_model_summary=False, default_root_dir=tmp_path, **settings
    )
    trainer.fit(module)
    w, closure = least_squares()
    rule = make([w])
    for _ in range(4):
        rule.step(closure)
    assert torch.equal(module.weight.detach(), w.detach())
    assert trainer.global_step == 4


def test_settings_beside_the_names_have_the_defaults_of_the_methods():
    usual = {f.name: f.default for f in fields(Recipe)}
    for key, room in ROOMS.items():
        for name in catalog.names(room):
            method = catalog.get(room, name)
            module = __import__(method.__module__, fromlist=["x"])
            for setting, parameter in catalog.arguments(getattr(module, "for_run", method)).items():
                if setting in FLAT[key] and isinstance(usual[setting], int | float | str):
                    assert parameter.default == usual[setting], (name, setting)


def test_sam_goes_nearby_with_the_weights_that_learn_alone():
    """Beside a group whose rate is 0 the step is the one without that group, by hand."""
    w, closure = least_squares()
    still = nn.Parameter(torch.full((50,), 3.0))

    def with_more():
        still.grad = None
        loss = closure() + 100 * still.square().sum()
        loss.backward(inputs=[still])
        return loss.detach()

    rule = SAM(torch.optim.SGD([{"params": [w]}, {"params": [still], "lr": 0.0}], lr=0.1), rho=0.5)
    seen = []
    rule.step(lambda: (seen.append(still.detach().clone()), with_more())[1])
    here = np.array(START)
    g = slope(here)
    np.testing.assert_allclose(w.detach(), here - 0.1 * slope(here + 0.5 * g / np.linalg.norm(g)), rtol=1e-5)
    assert all(torch.equal(each, torch.full((50,), 3.0)) for each in [*seen, still.detach()])
