"""OAT: the published anchors and losses, the running anchor, and that its softmax is not taken for a probability."""

import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import OAT, Anchored, SquaredError, StableMax
from kedge.optim import SAM
from kedge.training import fit

DRAWS = torch.Generator().manual_seed(1)
IMAGES = torch.rand(15, 3, 6, 6, generator=DRAWS)
TARGETS = torch.randint(5, (15,), generator=DRAWS)
PUBLISHED = torch.tensor([[2.0, 0.0, 0.0], [0.0, 1.0, 0.0]])


def fixed(logits):
    return lambda images: logits


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 5))


@pytest.mark.parametrize(("centre", "anchor", "loss"), [
    ("probabilities", (0.38981, 0.33279, 0.27739), 0.866452),
    ("outputs", (0.50648, 0.30720, 0.18632), 1.104582),
])  # fmt: skip
def test_the_published_anchors(centre, anchor, loss):
    objective = OAT(momentum=0, centre=centre)
    assert float(objective(fixed(PUBLISHED), IMAGES[:2], torch.tensor([0, 1]))) == pytest.approx(loss, abs=1e-6)
    assert objective.anchor.tolist() == pytest.approx(anchor, abs=1e-5)
    assert float(objective.anchor.sum()) == pytest.approx(1)


def test_the_published_targets_are_where_the_loss_is_zero():
    """Targets (1.56532, -1, -1) and (-1, 2.00487, -1), of the anchor that the outputs above left."""
    objective = OAT(momentum=0)
    objective(fixed(PUBLISHED), IMAGES[:2], torch.tensor([0, 1]))
    objective.eval()
    objective.momentum = 1.0
    targets = torch.tensor([[1.56532, -1, -1], [-1, 2.00487, -1]])
    assert float(objective(fixed(targets), IMAGES[:2], torch.tensor([0, 1]))) == pytest.approx(0, abs=1e-9)
    decoded = objective.anchor * (targets + 1)  # with the anchor that is stored
    torch.testing.assert_close(decoded, torch.eye(3)[:2], atol=1e-5, rtol=0)


def test_a_fixed_anchor_is_squared_error_with_scaled_one_hot_targets(net):
    scaled = 5 * nn.functional.one_hot(TARGETS, 5) - 1
    objective = OAT(momentum=1.0)
    objective.prepare(net)
    expected = SquaredError()(net, IMAGES, scaled.float())
    torch.testing.assert_close(objective(net, IMAGES, TARGETS), expected)
    equal = torch.full((15, 5), 0.7)  # with equal outputs the anchor of the batch is 1/C too
    torch.testing.assert_close(
        OAT(momentum=0)(fixed(equal), IMAGES, TARGETS), SquaredError()(fixed(equal), IMAGES, scaled.float())
    )


def test_the_anchor_of_a_batch_is_near_uniform(net):
    objective = OAT(momentum=0)
    objective(lambda images: 100 * net(images), IMAGES, torch.zeros(15, dtype=torch.long))
    low, high = 1 / (1 + 4 * torch.e), torch.e / (torch.e + 4)
    assert low <= float(objective.anchor.min()) <= float(objective.anchor.max()) <= high


def test_the_anchor_runs_and_carries_no_gradient(net):
    objective = OAT(momentum=0.75)
    logits = net(IMAGES)
    loss = objective(fixed(logits), IMAGES, TARGETS)
    own = logits.detach().softmax(1).mean(0).softmax(0)
    expected = 0.75 / 5 + 0.25 * own
    torch.testing.assert_close(objective.anchor, expected)
    targets = nn.functional.one_hot(TARGETS, 5) / expected - 1
    (gradient,) = torch.autograd.grad(loss, logits)
    torch.testing.assert_close(gradient, 2 * (logits.detach() - targets) / logits.numel())
    objective.eval()
    objective(fixed(logits), IMAGES, TARGETS)
    torch.testing.assert_close(objective.anchor, expected)


def test_soft_targets_one_image_and_half_precision(net):
    soft = nn.functional.one_hot(TARGETS, 5).float()
    assert torch.equal(OAT()(net, IMAGES, TARGETS), OAT()(net, IMAGES, soft))
    assert torch.isfinite(OAT()(net, IMAGES[:1], TARGETS[:1]))
    half = OAT()(fixed(net(IMAGES).bfloat16()), IMAGES, TARGETS)
    assert half.dtype == torch.float32
    weighted = OAT(class_weights=[2.0, 1.0, 1.0, 1.0, 0.5])(net, IMAGES[:1], torch.tensor([0]))
    torch.testing.assert_close(weighted, 2 * OAT()(net, IMAGES[:1], torch.tensor([0])))


def test_it_nests_in_anchored_and_masked_images_are_pulled_to_nothing():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(64, 5))
    model = kedge.anchor(network, example=(3, 6, 6), references=IMAGES[:4])
    objective = Anchored(OAT(), alpha=0.5)
    objective.inner.prepare(model)
    loss = objective(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
    uniform = torch.full((15, 5), 0.2)
    assert float(OAT(momentum=1.0)(fixed(torch.zeros(15, 5)), IMAGES, uniform)) == pytest.approx(0, abs=1e-12)


def test_two_passes_of_a_step_move_the_anchor_once(tmp_path):
    runs = {}
    for name, rules in {"once": ["sgd"], "twice": [{"sam": {"rho": 0.0}}, "sgd"]}.items():
        recipe = {**TINY, "optimizer": rules, "runs": str(tmp_path), "name": name}
        runs[name] = fit(recipe, progress=False, report=False).model.state_dict()
    assert all(torch.equal(value, runs["once"][key]) for key, value in runs["twice"].items())
    assert SAM.passes == 2


@pytest.mark.parametrize(("arguments", "words"), [
    ({"momentum": 1.1}, "momentum is a share.* got 1.1"),
    ({"centre": "batch"}, "centre must be one of probabilities, outputs, got 'batch'"),
    ({"class_weights": [1.0, -1.0]}, "-1"),
])  # fmt: skip
def test_values_that_cannot_be_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        OAT(**arguments)


TINY = {
    "data": "digits", "model": "kedge_resnet_small", "arguments": {"width": 4}, "train_images": 160, "batch_size": 40,
    "epochs": 1, "device": "cpu", "seed": 0, "anchored": False, "objective": ["oat"], "temperature": True,
}  # fmt: skip


@pytest.mark.parametrize("objective", [["oat"], ["stable_max", "oat"]])
def test_a_recipe_without_a_temperature_is_refused_before_data_is_read(objective, tmp_path):
    recipe = {**TINY, "data": str(tmp_path / "nowhere"), "objective": objective, "temperature": False}
    with pytest.raises(ValueError, match=r"what OAT trains is no probability.* temperature: true"):
        fit(recipe, progress=False, report=False)
    assert StableMax.needs_temperature is False
