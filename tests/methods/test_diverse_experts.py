import pytest
import timm
import torch
from torch import nn

import kedge
import kedge.networks  # registers kedge's own with timm
from kedge.expert_weights import aggregate, select_head, similarity
from kedge.experts import Experts, experts_of
from kedge.objectives import Anchored, CrossEntropy, DiverseExperts
from kedge.objectives.diverse_experts import reversed_ranks

PRIOR = [0.6, 0.3, 0.1]
IMAGES = torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.tensor([0, 1, 2, 2, 1, 0])


def network(heads=3, classes=3):
    torch.manual_seed(0)
    return timm.create_model("kedge_resnet_small", width=4, num_classes=classes, heads=heads)


def at_zero():
    model = kedge.plain(network(), example=(3, 8, 8))
    nn.init.zeros_(model.network.fc.each.weight)
    nn.init.zeros_(model.network.fc.each.bias)
    return model


@pytest.mark.parametrize(
    ("label", "values"), [(2, (1.098612, 2.302585, 5.433722)), (0, (1.098612, 0.510826, 0.058444))]
)
def test_the_published_values_at_zero_logits(label, values):
    objective, model = DiverseExperts(PRIOR), at_zero().eval()
    objective.prepare(model)
    loss = objective(model, IMAGES[:1], torch.tensor([label]))
    assert [float(value) for value in objective.logged.values()] == pytest.approx(values, abs=2e-6)
    assert float(loss.detach()) == pytest.approx(sum(values), abs=1e-5)


def test_equal_shares_are_three_times_cross_entropy():
    objective, model = DiverseExperts([1, 1, 1]), at_zero()
    assert float(objective(model, IMAGES, TARGETS).detach()) == pytest.approx(3 * 1.098612, abs=1e-5)


def test_reversed_ranks_are_a_permutation_and_twice_is_once():
    values = torch.tensor([0.2, 0.5, 0.1, 0.15, 0.05], dtype=torch.float64)
    other = reversed_ranks(values)
    assert other.tolist() == [0.1, 0.05, 0.2, 0.15, 0.5]
    assert torch.equal(reversed_ranks(other), values)


def test_a_constant_on_all_logits_of_an_expert_changes_nothing():
    objective, model = DiverseExperts(PRIOR), kedge.plain(network(), example=(3, 8, 8)).eval()
    before = objective(model, IMAGES, TARGETS)
    with torch.no_grad():
        model.network.fc.each.bias[3:6] += 7
    torch.testing.assert_close(objective(model, IMAGES, TARGETS), before)


def test_the_model_answers_with_the_mean():
    model = kedge.plain(network(), example=(3, 8, 8)).eval()
    name, experts = experts_of(model)
    assert name == "network.fc.each"
    features = model.network.forward_head(model.network.forward_features(IMAGES), pre_logits=True)
    apart = experts.apart(experts.each(features))
    assert apart.shape == (6, 3, 3)
    torch.testing.assert_close(experts(features), apart.mean(1))
    first = torch.nn.functional.linear(features, experts.each.weight[:3], experts.each.bias[:3])
    torch.testing.assert_close(apart[:, 0], first)


def test_soft_targets_one_image_and_half_precision():
    objective, model = DiverseExperts(PRIOR), kedge.plain(network(), example=(3, 8, 8)).eval()
    whole = objective(model, IMAGES, TARGETS)
    torch.testing.assert_close(objective(model, IMAGES, nn.functional.one_hot(TARGETS, 3).float()), whole)
    single = [objective(model, IMAGES[i : i + 1], TARGETS[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(torch.stack(single).mean(), whole)
    loss = objective(model.bfloat16(), IMAGES.bfloat16(), TARGETS)
    assert loss.dtype == torch.float32
    assert float(loss.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_it_nests_in_anchored_and_masked_images_are_to_answer_evenly():
    model = kedge.anchor(network(), references=IMAGES[:4])
    nn.init.zeros_(model.network.fc.each.weight)
    nn.init.zeros_(model.network.fc.each.bias)
    loss = Anchored(DiverseExperts(PRIOR), alpha=1.0, mask_target="uniform")(model, IMAGES, TARGETS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(3 * 1.098612, abs=1e-5)


def test_networks_without_three_experts_are_refused_before_training():
    with pytest.raises(ValueError, match=r"no layer of experts.*heads: 3"):
        DiverseExperts(PRIOR).prepare(kedge.plain(network(1), example=(3, 8, 8)))
    with pytest.raises(ValueError, match="three experts, and the network has 2"):
        DiverseExperts(PRIOR).prepare(kedge.plain(network(2), example=(3, 8, 8)))
    with pytest.raises(ValueError, match="2 or more, not 0"):
        Experts(4, 3, 0)
    with pytest.raises(ValueError, match="shares of 2 classes"):
        DiverseExperts([1, 2])(kedge.plain(network(), example=(3, 8, 8)), IMAGES, TARGETS)


def test_folded_saved_and_loaded_it_answers_alike(tmp_path):
    model = kedge.anchor(network(), references=IMAGES[:2]).eval()
    experts_of(model)[1].weights.copy_(torch.tensor([0.5, 0.3, 0.2]))
    loaded = kedge.load(kedge.save(model, tmp_path / "model"))
    expected = model.predict(IMAGES, references=1).probs
    torch.testing.assert_close(loaded.predict(IMAGES, references=1).probs, expected)
    torch.testing.assert_close(loaded.fold()(IMAGES).softmax(1), expected)


# Weights learned on unlabelled images


def test_equal_experts_and_equal_views_do_not_move_the_weights():
    omega = torch.zeros(3, requires_grad=True)
    logits = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(0)).expand(5, 3, 4)
    other = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(1)).expand(5, 3, 4)
    similarity(omega, logits, other).backward()
    assert float(omega.grad.abs().max()) < 1e-7
    omega.grad = None
    several = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(2))
    same = similarity(omega, several, several)
    same.backward()
    assert float(same.detach()) == pytest.approx(1)
    assert float(omega.grad.abs().max()) < 1e-6


def test_constant_answers_win():
    """What makes it harmful: an expert that answers the same to everything agrees best with itself."""
    draws = torch.Generator().manual_seed(3)
    one, other = (4 * torch.randn(50, 3, 10, generator=draws) for _ in range(2))
    one[:, 2] = other[:, 2] = torch.eye(10)[3] * 20
    omega = torch.zeros(3, requires_grad=True)
    similarity(omega, one, other).backward()
    assert float(omega.grad[2]) > 0 > float(omega.grad[:2].max())


def test_weights_sum_to_one_and_depend_on_the_seed_alone():
    digits = kedge.data.load("digits", "test").subset(range(96))
    torch.manual_seed(0)
    net = timm.create_model("kedge_resnet_small", width=4, num_classes=10, in_chans=1, heads=3)
    model = kedge.plain(net, example=(1, 8, 8))
    first = aggregate(model, digits, seed=1, epochs=2, batch_size=32)
    assert float(first.sum()) == pytest.approx(1)
    assert float(first.max() - first.min()) > 1e-4
    assert torch.equal(experts_of(model)[1].weights, first)
    assert torch.equal(aggregate(model, digits, seed=1, epochs=2, batch_size=32), first)
    with pytest.raises(ValueError, match="no images"):
        aggregate(model, digits.subset(()))


def test_one_head_is_the_network_of_before():
    torch.manual_seed(0)
    before = timm.create_model("kedge_resnet_small", width=4, num_classes=3)
    assert isinstance(before.fc, nn.Linear)
    assert torch.isfinite(CrossEntropy()(network(), IMAGES, TARGETS))


def test_a_map_that_a_model_was_trained_through_stays_whatever_its_experts_count():
    model = kedge.plain(network(), example=(3, 8, 8))
    model.class_names = ["a", "b", "c"]
    images = kedge.data.TensorSet((IMAGES * 255).byte(), TARGETS, model.class_names, "specks", "test")
    for change in (select_head, aggregate):
        kedge.objectives.StableMax(CrossEntropy()).prepare(model)
        model.set_temperature(2.0)
        change(model, images)
        assert model.steps == {"stable_max": {"value": None}}
