import copy
import io
from dataclasses import replace

import pytest
import torch
from torch import nn

import kedge
from kedge.optim import SAM, SGD, GradientNorm
from kedge.training import fit
from kedge.training.build import step_passes
from kedge.training.recipe import Recipe
from tests.settings import TINY

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(3, (12,), generator=torch.Generator().manual_seed(2))
CURVED = torch.tensor([1.0, 4.0])


def quadratic(start=(1.0, 1.0)):
    """A weight, and the closure of ½ Σ h w²."""
    w = nn.Parameter(torch.tensor(start))

    def closure():
        w.grad = None
        loss = 0.5 * (CURVED * w.square()).sum()
        loss.backward()
        return loss.detach()

    return w, closure


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))


def stepped(make, steps=3, model=None):
    model = network() if model is None else model
    rule = make(model)

    def closure():
        rule.zero_grad()
        loss = nn.functional.cross_entropy(model(IMAGES), LABELS)
        loss.backward()
        return loss.detach()

    losses = [float(rule.step(closure)) for _ in range(steps)]
    return model, losses, rule


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return all(torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize("rho", [1e-3, 0.05, 3.0])
def test_on_a_quadratic_it_is_the_gradient_of_the_norm(rho):
    """H g / ‖g‖ for H = diag(1, 4) at (1, 1), whatever the distance."""
    w, closure = quadratic()
    GradientNorm(torch.optim.SGD([w], lr=1.0), rho, weight=1 / rho).step(closure)
    step = (torch.tensor([1.0, 1.0]) - w.detach()) - torch.tensor([1.0, 4.0])
    # rounding of the difference is divided by rho
    assert step.tolist() == pytest.approx([0.242536, 3.880570], abs=2e-6 / rho + 1e-5)


def test_with_weight_1_it_is_sam_to_the_bit():
    one, losses, _ = stepped(lambda m: GradientNorm(SGD(m.parameters(), lr=0.1), 0.3, weight=1.0, model=m))
    other, others, _ = stepped(lambda m: SAM(SGD(m.parameters(), lr=0.1), 0.3, model=m))
    assert same(one, other)
    assert losses == others


@pytest.mark.parametrize("settings", [{"weight": 0.0}, {"rho": 0.0}, {"rho": 0.0, "target": "output"}])
def test_without_weight_or_distance_it_is_the_optimizer_inside(settings):
    one, losses, _ = stepped(lambda m: GradientNorm(SGD(m.parameters(), lr=0.1), model=m, **settings))
    other, others, _ = stepped(lambda m: SGD(m.parameters(), lr=0.1))
    assert same(one, other)
    assert losses == others


@pytest.mark.parametrize("target", ["loss", "output"])
def test_the_penalty_is_the_gradient_of_the_norm_by_autograd(target):
    """Against ∇(L + c ρ ‖∇G‖) by double backward, in float64, for a smooth network."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    images, weights = IMAGES.double(), list(model.parameters())

    def loss():
        return nn.functional.cross_entropy(model(images), LABELS)

    g = loss() if target == "loss" else model(images).max(1).values.mean()
    norm = torch.cat([x.flatten() for x in torch.autograd.grad(g, weights, create_graph=True)]).norm()
    rho, c = 1e-5, 2.0
    expected = torch.autograd.grad(loss() + c * rho * norm, weights)
    plain = torch.autograd.grad(loss(), weights)
    start = [w.detach().clone() for w in weights]
    rule = GradientNorm(torch.optim.SGD(weights, lr=1.0), rho, c, target, model=model)

    def closure():
        rule.zero_grad()
        value = loss()
        value.backward()
        return value

    rule.step(closure)
    for w, before, whole, base in zip(weights, start, expected, plain, strict=True):
        torch.testing.assert_close((before - w.detach() - base) / rho, (whole - base) / rho, rtol=1e-3, atol=1e-3)


def test_an_output_that_is_linear_in_the_weights_changes_nothing():
    def linear(m):
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))

    one, _, _ = stepped(lambda m: GradientNorm(SGD(m.parameters(), lr=0.1), 1e-3, 5.0, "output", model=m), 3, linear(0))
    other, _, _ = stepped(lambda m: SGD(m.parameters(), lr=0.1), 3, linear(0))
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)


@pytest.mark.parametrize("target", ["loss", "output"])
def test_weights_are_put_back_and_statistics_move_once(target):
    """Round an optimizer that stays the weights are the old ones to the bit, the statistics those of one pass."""

    class Still(torch.optim.SGD):
        def step(self, closure=None):
            return None if closure is None else closure()

    model, _, _ = stepped(lambda m: GradientNorm(Still(m.parameters(), lr=0.1), 2.0, 3.0, target, model=m), 1)
    plain, _, _ = stepped(lambda m: Still(m.parameters(), lr=0.1), 1)
    assert same(model, plain)
    assert int(model[1].num_batches_tracked) == 1


@pytest.mark.parametrize(("bound", "after"), [(4.123106 * 0.5, 0.8), (4.123106 * 0.25, 0.8 + 0.1 * 4.123106 * 0.25)])
def test_the_multiplier_moves_by_what_is_beyond_the_bound(bound, after):
    w, closure = quadratic()
    rule = GradientNorm(torch.optim.SGD([w], lr=0.1), 0.5, 0.8, bound=bound, dual_rate=0.1)
    rule.step(closure)
    assert float(rule.param_groups[0]["multiplier"]) == pytest.approx(after, abs=1e-6)
    again = copy.deepcopy(rule)
    again.load_state_dict(torch.load(_saved(rule), weights_only=True))
    assert float(again.param_groups[0]["multiplier"]) == float(rule.param_groups[0]["multiplier"])


def test_the_multiplier_is_never_below_zero():
    w, closure = quadratic()
    rule = GradientNorm(torch.optim.SGD([w], lr=0.1), 0.5, 0.0, bound=100.0, dual_rate=10.0)
    rule.step(closure)
    assert float(rule.param_groups[0]["multiplier"]) == 0


def _saved(rule):
    file = io.BytesIO()
    torch.save(rule.state_dict(), file)
    file.seek(0)
    return file


def test_no_gradient_is_no_step():
    w, closure = quadratic((0.0, 0.0))
    GradientNorm(torch.optim.SGD([w], lr=0.1), bound=0.1).step(closure)
    assert w.tolist() == [0, 0]


@pytest.mark.parametrize("images", [IMAGES[:1], IMAGES[:5]])
def test_an_anchored_model_is_read_with_the_references_of_the_step(images):
    model = kedge.anchor(
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3)), references=IMAGES[6:9]
    ).train()
    objective = kedge.objectives.Anchored(kedge.objectives.CrossEntropy(), alpha=0.0)
    rule = GradientNorm(SGD(model.parameters(), lr=0.1), target="output", model=model)
    calls = []

    def closure():
        torch.manual_seed(0)
        calls.append(1)
        rule.zero_grad()
        loss = objective(model, images, LABELS[: len(images)])
        loss.backward()
        return loss.detach()

    before = [p.detach().clone() for p in model.parameters()]
    rule.step(closure)
    assert len(calls) == rule.passes == 3
    assert all(p.isfinite().all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weight": -1.0}, "-1"),
        ({"rho": -0.1}, "-0.1"),
        ({"target": "logits"}, "logits"),
        ({"bound": 0.0}, "bound"),
        ({"dual_rate": float("nan")}, "dual_rate"),
    ],
)
def test_settings_that_cannot_be(settings, word):
    with pytest.raises(ValueError, match=word):
        GradientNorm(SGD([nn.Parameter(torch.ones(2))], lr=0.1), **settings)


def test_what_it_cannot_read_is_said():
    model = network()
    with pytest.raises(ValueError, match="model=model"):
        stepped(lambda m: GradientNorm(SGD(m.parameters(), lr=0.1), target="output"))
    with pytest.raises(ValueError, match="did not call it in train mode"):
        stepped(lambda m: GradientNorm(SGD(m.parameters(), lr=0.1), target="output", model=model))
    with pytest.raises(ValueError, match="closure"):
        GradientNorm(SGD(model.parameters(), lr=0.1)).step()
    spatial = nn.Sequential(nn.Conv2d(1, 3, 3))
    rule = GradientNorm(SGD(spatial.parameters(), lr=0.1), target="output", model=spatial)
    with pytest.raises(ValueError, match=r"logits \[B, C\]"):
        rule.step(lambda: spatial(IMAGES).mean().backward())


def written(**settings):
    return Recipe(optimizer=[{"gradient_norm": settings}, "sgd"])


def test_the_cost_is_counted():
    assert step_passes(written()) == 2
    assert step_passes(written(target="output")) == 3
    assert step_passes(written(weight=0.0)) == 1
    assert step_passes(written(weight=0.0, bound=0.1)) == 2


def test_what_it_does_not_go_with():
    with pytest.raises(ValueError, match=r"gradient-norm computes the gradients of a step more.*bf16 or 32"):
        step_passes(replace(written(), precision="16"))
    with pytest.raises(ValueError, match="leave compile out"):
        step_passes(replace(written(target="output"), compile=True))
    assert step_passes(replace(written(), compile=True)) == 2


def test_a_compiled_model_is_refused_before_the_run_has_a_folder(tmp_path):
    recipe = {**TINY, "runs": str(tmp_path), "name": "run", "epochs": 1, "compile": True}
    recipe["optimizer"] = [{"gradient_norm": {"target": "output"}}, {"sgd": {"lr": 0.05}}]
    with pytest.raises(ValueError, match="leave compile out"):
        fit(recipe, progress=False, report=False)
    assert not (tmp_path / "run").exists()
