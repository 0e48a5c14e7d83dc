import math

import numpy as np
import pytest
import timm
import torch
from torch import nn

import kedge
import kedge.networks  # registers kedge's own with timm
from kedge.members import Members, members_of
from kedge.objectives import Anchored, ConditionalTC
from kedge.objectives.conditional_tc import apart, conditional_tc

IMAGES = torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(12) % 3


def network(members=2, classes=3, **more):
    torch.manual_seed(0)
    sizes = {"members": members, "width": 4, "num_classes": classes, "in_chans": 1, **more}
    return timm.create_model("kedge_members", **sizes)


@pytest.fixture
def model():
    return kedge.plain(network(), mean=0.4, std=0.3, example=(1, 8, 8))


def answers(pairs, classes=2):
    """Sure answers of two networks, `[B, 2, C]`."""
    return nn.functional.one_hot(torch.tensor(pairs), classes).double()


def of_one_class(count, classes=2):
    return torch.eye(classes, dtype=torch.float64)[torch.zeros(count, dtype=torch.long)]


# The term itself

JOINT = [(0, 0)] * 4 + [(0, 1)] + [(1, 0)] + [(1, 1)] * 4


def test_the_published_value():
    assert float(conditional_tc(answers(JOINT), of_one_class(10))) == pytest.approx(0.192745, abs=1e-6)


def test_soft_answers_against_numpy():
    soft = torch.tensor([[[0.9, 0.1]] * 2, [[0.1, 0.9]] * 2], dtype=torch.float64)
    joint = np.mean([np.outer(image[0], image[1]) for image in soft.numpy()], axis=0)
    expected = (joint * np.log(joint / np.outer(joint.sum(1), joint.sum(0)))).sum()
    assert float(conditional_tc(soft, of_one_class(2))) == pytest.approx(expected)
    assert expected == pytest.approx(0.221754, abs=1e-6)
    opposite = soft.clone()
    opposite[:, 1] = soft[:, 1].flip(1)
    assert float(conditional_tc(opposite, of_one_class(2))) == pytest.approx(0.221754, abs=1e-6)


def test_independent_constant_or_single_networks_have_none():
    independent = answers([(0, 0), (0, 1), (1, 0), (1, 1)])
    assert float(conditional_tc(independent, of_one_class(4))) == pytest.approx(0, abs=1e-12)
    constant = answers([(0, 1), (1, 1), (1, 1)])
    assert float(conditional_tc(constant, of_one_class(3))) == pytest.approx(0, abs=1e-12)
    assert float(conditional_tc(answers(JOINT)[:, :1], of_one_class(10))) == 0
    assert float(conditional_tc(answers(JOINT)[:1], of_one_class(1))) == pytest.approx(0, abs=1e-12)


def test_equal_sure_networks_share_all_that_they_say():
    equal = answers([(0, 0), (1, 1), (0, 0), (1, 1)])
    assert float(conditional_tc(equal, of_one_class(4))) == pytest.approx(math.log(2))


def test_it_is_within_classes_alone():
    """Two networks that are right about everything share the label and nothing else."""
    right, labels = answers([(0, 0), (1, 1), (0, 0), (1, 1)]), torch.tensor([0, 1, 0, 1])
    classes = torch.eye(2, dtype=torch.float64)[labels]
    assert float(conditional_tc(right, classes)) == pytest.approx(0, abs=1e-12)
    draws = torch.randn(40, 2, 3, generator=torch.Generator().manual_seed(2)).double().softmax(2)
    labels = torch.arange(40) % 3
    whole = conditional_tc(draws, torch.eye(3, dtype=torch.float64)[labels])
    parts = [conditional_tc(draws[labels == k], of_one_class(int((labels == k).sum()))) for k in range(3)]
    shares = torch.bincount(labels).double() / 40
    assert float(whole) == pytest.approx(float((torch.stack(parts) * shares).sum()))
    assert float(whole) > 0


def test_of_three_networks_it_is_the_sum_over_pairs():
    draws = torch.randn(20, 3, 4, generator=torch.Generator().manual_seed(3)).softmax(2)
    classes = torch.eye(4)[torch.arange(20) % 4]
    pairs = [conditional_tc(draws[:, [i, j]], classes) for i, j in ((0, 1), (0, 2), (1, 2))]
    torch.testing.assert_close(conditional_tc(draws, classes), torch.stack(pairs).sum())


def test_gradients_are_finite_where_answers_are_sure():
    logits = (200 * answers(JOINT)).float().requires_grad_()
    conditional_tc(logits.softmax(2), of_one_class(10).float()).backward()
    assert logits.grad.isfinite().all()


# The networks


def test_the_answer_is_the_mean_of_the_members(model):
    name, members = members_of(model)
    assert name == "network.features"
    features = members.forward_head(members.forward_features(IMAGES), pre_logits=True)
    each = apart(members, features)
    assert each.shape == (12, 2, 3)
    torch.testing.assert_close(members(IMAGES), each.mean(1))
    own = features[:, :16] @ members.fc.weight[:, :16].T * 2 + members.fc.bias
    torch.testing.assert_close(each[:, 0], own)


def test_a_member_is_a_network_of_its_own(model):
    """With no price the gradients of one do not depend on the other."""
    objective, (_, members) = ConditionalTC(0), members_of(model)
    names = [name for name, _ in members.named_parameters() if name.startswith("each.0.")]

    def gradients():
        model.zero_grad()
        objective(model, IMAGES, TARGETS).backward()
        every = dict(members.named_parameters())
        return [every[name].grad.clone() for name in names] + [members.stem.weight.grad[:4].clone()]

    before = gradients()
    with torch.no_grad():
        members.each[1].blocks[0].conv1.weight.add_(1)
        members.stem.weight[4:].mul_(3)
    assert all(torch.equal(a, b) for a, b in zip(before, gradients(), strict=True))


@pytest.mark.parametrize("anchored", [False, True])
def test_saved_loaded_and_folded_it_answers_alike(tmp_path, anchored):
    made = {"references": IMAGES[:1], "example": (1, 8, 8)} if anchored else {"example": (1, 8, 8)}
    model = (kedge.anchor if anchored else kedge.plain)(network(3), **made).eval()
    loaded = kedge.load(kedge.save(model, tmp_path / "model"))
    assert isinstance(loaded.network, Members)
    torch.testing.assert_close(loaded.predict(IMAGES).probs, model.predict(IMAGES).probs)
    torch.testing.assert_close(model.fold()(IMAGES).softmax(1), model.predict(IMAGES).probs)


def test_a_new_head_reads_the_features_of_all():
    from kedge import data
    from kedge.adaptation import adapt, find_head

    few = data.load("digits", "train").only_classes(["1", "4", "7"]).subset(range(40))
    model = kedge.plain(network(), mean=0.3, std=0.5, example=(1, 8, 8)).eval()
    assert find_head(model) == "fc"
    adapted = adapt(model, few, device="cpu")
    assert adapted.model.network.fc.weight.shape == (3, 32)
    assert adapted.model.network.apart(torch.rand(2, 32)).shape == (2, 2, 3)


@pytest.mark.parametrize("name", ["kedge_resnet_small", "kedge_wrn_40_2"])
def test_members_of_other_networks(name):
    made = kedge.networks.create("kedge_members", 3, 1, 8, arguments={"network": name, "members": 2, "width": 1})
    assert made(IMAGES).shape == (12, 3)
    again = kedge.networks.rebuild(made.kedge_architecture)
    again.load_state_dict(made.state_dict())
    assert torch.equal(again.eval()(IMAGES), made.eval()(IMAGES))


def test_networks_that_cannot_be():
    create = kedge.networks.create
    with pytest.raises(ValueError, match="network argument network is kedge_resnet_small or"):
        create("kedge_members", 3, 1, arguments={"network": "resnet18"})
    with pytest.raises(ValueError, match="2 or more, not 1"):
        create("kedge_members", 3, 1, arguments={"members": 1})


# The objective


def test_it_is_the_sum_of_the_losses_and_the_price(model):
    objective, (_, members) = ConditionalTC(2.0), members_of(model)
    objective.prepare(model)
    model.eval()
    loss = objective(model, IMAGES, TARGETS)
    x = (IMAGES - 0.4) / 0.3
    each = apart(members, members.forward_head(members.forward_features(x), pre_logits=True))
    plain = sum(nn.functional.cross_entropy(each[:, m], TARGETS) for m in range(2))
    shared = conditional_tc(each.softmax(2), torch.eye(3)[TARGETS])
    torch.testing.assert_close(loss, plain + 2 * shared)
    torch.testing.assert_close(objective.logged["conditional_tc"], shared.detach())
    torch.testing.assert_close(ConditionalTC(0)(model, IMAGES, TARGETS), plain)


def test_minimised_it_goes_away():
    torch.manual_seed(0)
    logits = torch.randn(30, 2, 3, requires_grad=True)
    classes, optimizer = torch.eye(3)[torch.arange(30) % 3], torch.optim.Adam([logits], 0.1)
    before = float(conditional_tc(logits.softmax(2), classes).detach())
    for _ in range(50):
        optimizer.zero_grad()
        conditional_tc(logits.softmax(2), classes).backward()
        optimizer.step()
    assert float(conditional_tc(logits.softmax(2), classes).detach()) < 0.05 * before


def test_soft_targets_one_image_one_class_and_half_precision(model):
    objective = ConditionalTC(1.0)
    model.eval()
    whole = objective(model, IMAGES, TARGETS)
    torch.testing.assert_close(objective(model, IMAGES, torch.eye(3)[TARGETS]), whole)
    one = objective(model, IMAGES[:1], TARGETS[:1])
    torch.testing.assert_close(one, ConditionalTC(0)(model, IMAGES[:1], TARGETS[:1]))
    assert torch.isfinite(objective(model, IMAGES, torch.ones(12, dtype=torch.long)))
    half = objective(model.bfloat16(), IMAGES.bfloat16(), TARGETS)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_it_nests_in_anchored_whose_masked_images_have_no_class():
    model = kedge.anchor(network(), references=IMAGES[:4], example=(1, 8, 8))
    objective = ConditionalTC(1.0)
    loss = Anchored(objective, alpha=0.4)(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
    Anchored(objective, alpha=1.0)(model, IMAGES, TARGETS)
    assert float(objective.logged["conditional_tc"]) == 0


def test_what_cannot_be_is_refused_before_training(model):
    with pytest.raises(ValueError, match="weight is a number, 0 or more, got -1"):
        ConditionalTC(-1)
    single = timm.create_model("kedge_resnet_small", width=4, num_classes=3, in_chans=1)
    with pytest.raises(ValueError, match=r"ResidualNetwork is one network.*members: 2"):
        ConditionalTC().prepare(kedge.plain(single, example=(1, 8, 8)))
    with pytest.raises(ValueError, match="256 classes are the most, and the model has 300"):
        ConditionalTC().prepare(kedge.plain(network(classes=300), example=(1, 8, 8)))
    with pytest.raises(ValueError, match="targets must be"):
        ConditionalTC()(model, IMAGES, TARGETS[:3])


def test_in_mixed_precision_it_is_not_rounded():
    draws = torch.Generator().manual_seed(0)
    probs, classes = torch.randn(256, 2, 10, generator=draws).softmax(2), torch.eye(10)[torch.arange(256) % 10]
    with torch.autocast("cpu", torch.bfloat16):
        value = conditional_tc(probs, classes)
    assert torch.equal(value, conditional_tc(probs, classes))
