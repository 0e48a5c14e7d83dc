"""What a critic finds in features: against closed forms, and what each of the two sides gets a gradient of."""

import math

import pytest
import timm
import torch
from torch import nn

import kedge
import kedge.networks  # registers kedge's own with timm
from kedge.objectives import Anchored, ConditionalTC, CriticTC, Mixup
from kedge.objectives.critic_tc import alike, critic_terms, permuted_within
from kedge.training import fit
from tests.settings import TINY

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(12) % 3


@pytest.fixture
def model():
    torch.manual_seed(0)
    network = timm.create_model("kedge_members", members=2, width=4, num_classes=3, in_chans=1)
    return kedge.plain(network, mean=0.4, std=0.3, example=(1, 8, 8))


def prepared(model, **settings):
    objective = CriticTC(**settings)
    objective.prepare(model)
    return objective


def judged(features, labels, classes=1, steps=200):
    """What a critic says of features `[B, M, D]` after it has learned to tell them from permuted ones."""
    torch.manual_seed(0)
    count = features[0].numel()
    critic = nn.Sequential(nn.Linear(count + classes, 32), nn.ReLU(), nn.Linear(32, 1))
    optimizer, ones = torch.optim.Adam(critic.parameters(), 0.03), torch.ones(len(labels))
    values = []
    for step in range(steps):
        optimizer.zero_grad()
        price, learning = critic_terms(critic, features, labels, classes, ones)
        learning.backward()
        optimizer.step()
        if step >= steps - 30:
            values.append(float(price.detach()))
    return sum(values) / len(values)


def signs(joint):
    """Two networks with one feature of ±1 and so many images of each pair."""
    pairs = [pair for pair, count in joint.items() for _ in range(count)]
    return torch.tensor(pairs, dtype=torch.float32)[:, :, None]


@pytest.mark.parametrize(
    ("joint", "expected"),
    [
        ({(1, 1): 80, (1, -1): 20, (-1, 1): 20, (-1, -1): 80}, 0.192745),
        ({(1, 1): 50, (1, -1): 50, (-1, 1): 50, (-1, -1): 50}, 0.0),
        ({(1, -1): 100, (-1, 1): 100}, math.log(2)),
        ({(1, 1): 100, (-1, -1): 100}, math.log(2)),
    ],
)
def test_at_its_optimum_it_is_the_total_correlation(joint, expected):
    features = signs(joint)
    assert judged(features, torch.zeros(200, dtype=torch.long)) == pytest.approx(expected, abs=0.03)


def test_given_the_class_two_networks_that_tell_it_have_nothing_in_common():
    """The pair of the class alone: log 2 without the label, 0 with it."""
    features = signs({(1, 1): 200, (-1, -1): 200})
    labels = (features[:, 0, 0] > 0).long()
    assert judged(features, labels, 2) == pytest.approx(0, abs=0.01)


def test_of_normal_features_it_is_the_closed_form():
    """-½ log(1 - ρ²) of two normal features of correlation ρ = 0.8: 0.510826."""
    draws = torch.randn(2, 2000, generator=torch.Generator().manual_seed(0))
    features = torch.stack([draws[0], 0.8 * draws[0] + 0.6 * draws[1]], 1)[:, :, None]
    value = judged(features, torch.zeros(2000, dtype=torch.long))
    assert value == pytest.approx(-0.5 * math.log(1 - 0.8**2), abs=0.08)


def test_permutations_stay_within_a_group_and_are_even():
    torch.manual_seed(0)
    groups = torch.tensor([2, 0, 1, 0, 0, 2])
    counts = torch.zeros(6, 6)
    for _ in range(3000):
        places = permuted_within(groups)
        assert torch.equal(groups[places], groups)
        assert torch.equal(places.sort().values, torch.arange(6))
        counts[torch.arange(6), places] += 1
    assert counts[2, 2] == 3000  # alone in its class
    torch.testing.assert_close(counts[[1, 3, 4]][:, [1, 3, 4]] / 3000, torch.full((3, 3), 1 / 3), atol=0.04, rtol=0)


def test_each_side_gets_the_gradient_of_its_own_aim():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Linear(3 * 2 + 3, 8), nn.ReLU(), nn.Linear(8, 1))
    features = torch.randn(12, 2, 3, requires_grad=True)
    price, learning = critic_terms(critic, features, TARGETS, 3, torch.ones(12))
    price.backward(retain_graph=True)
    assert features.grad.abs().sum() > 0
    assert all(p.grad is None for p in critic.parameters())
    features.grad = None
    learning.backward()
    assert features.grad is None
    assert all(p.grad is not None for p in critic.parameters())


def test_a_blind_critic_moves_no_network_and_without_weight_it_looks_on(model):
    def gradients(objective):
        model.zero_grad()
        torch.manual_seed(0)
        objective(model, IMAGES, TARGETS).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    model.eval()
    expected = gradients(ConditionalTC(0))
    blind = prepared(model, weight=3.0)
    with torch.no_grad():
        blind.critic[-1].weight.zero_()
    for objective in (blind, prepared(model, weight=0)):
        for one, other in zip(gradients(objective), expected, strict=True):
            torch.testing.assert_close(one, other)
    assert any(not torch.allclose(a, b) for a, b in zip(gradients(prepared(model, weight=3.0)), expected, strict=True))
    assert blind.critic[0].weight.grad is not None


def test_features_are_of_one_size():
    """Networks cannot pay less by features that are smaller."""
    torch.manual_seed(0)
    features = torch.randn(8, 2, 5)
    torch.testing.assert_close(alike(features), alike(0.01 * features), atol=1e-2, rtol=1e-2)
    torch.testing.assert_close(alike(features).square().mean(2), torch.ones(8, 2), atol=1e-4, rtol=0)
    assert alike(torch.zeros(2, 2, 5)).eq(0).all()


@pytest.mark.parametrize("rows", [1, 5, 12])
def test_small_batches_one_class_and_half_precision(model, rows):
    objective = prepared(model)
    model.eval()
    labels = torch.ones(rows, dtype=torch.long)
    assert objective(model, IMAGES[:rows], labels).isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(model, IMAGES[:rows], TARGETS[:rows])
    loss.backward()
    assert all(p.grad.isfinite().all() for p in objective.critic.parameters())


def test_it_nests_in_anchored_whose_masked_images_have_no_class(model):
    """In the uniform target of masked images there is no class, so masks are those that leave labels."""
    anchored = kedge.anchor(model.network, references=IMAGES[:4], example=(1, 8, 8))
    objective = prepared(anchored)
    loss = Anchored(objective, alpha=0)(anchored, IMAGES, TARGETS)
    loss.backward()
    assert loss.isfinite()
    with pytest.raises(ValueError, match="CriticTC takes class indices"):
        Anchored(objective, alpha=0.5)
    with pytest.raises(ValueError, match="cannot take the mixed targets of Mixup"):
        Mixup(objective)


def test_the_seed_decides_critic_and_permutations(model):
    model.eval()
    one, other, third = (prepared(model, seed=seed) for seed in (0, 0, 1))
    values = []
    for objective in (one, other, third):
        torch.manual_seed(5)
        values.append(float(objective(model, IMAGES, TARGETS).detach()))
    assert values[0] == values[1] != values[2]


def test_what_cannot_be(model):
    with pytest.raises(ValueError, match="weight is a number, 0 or more, got -1"):
        CriticTC(-1)
    with pytest.raises(ValueError, match=r"hidden is how many units .* 1 or more, got 0"):
        CriticTC(hidden=0)
    single = timm.create_model("kedge_resnet_small", width=4, num_classes=3, in_chans=1)
    with pytest.raises(ValueError, match=r"ResidualNetwork is one network.*members: 2"):
        CriticTC().prepare(kedge.plain(single, example=(1, 8, 8)))
    with pytest.raises(RuntimeError, match="has no critic yet"):
        CriticTC()(model, IMAGES, TARGETS)
    with pytest.raises(ValueError, match=r"takes class indices \[12\], not probabilities"):
        prepared(model)(model, IMAGES, torch.eye(3)[TARGETS])


def test_a_run_with_it(tmp_path):
    recipe = {**TINY, "model": "kedge_members", "anchored": False, "objective": ["critic_tc"], "epochs": 1}
    result = fit({**recipe, "runs": str(tmp_path), "name": "run"}, progress=False, report=False)
    assert math.isfinite(result.history[-1]["conditional_tc"])
    assert result.history[-1]["critic_loss"] == pytest.approx(2 * math.log(2), abs=0.2)
