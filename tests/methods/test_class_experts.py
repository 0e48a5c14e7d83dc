import pytest
import torch
import torch.nn.functional as F

from kedge.claims.class_experts import CHANGES, Experts, Single, fresh, one_vs_rest

IMAGES = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 2, 1, 0])


def count(network):
    return sum(p.numel() for p in network.parameters())


def test_the_control_has_as_many_weights():
    assert count(Experts(10)) == 10 * count(Experts(1)) == 8950
    assert count(Single(10)) == 8876


def test_an_expert_is_a_network_of_its_own():
    together = fresh(True, 3, 0)
    alone = Experts(1)
    for expert in range(3):
        for name, layer in alone.named_children():
            own = getattr(together, name)
            layer.weight.data = own.weight.data.chunk(3)[expert]
            layer.bias.data = own.bias.data.chunk(3)[expert]
        torch.testing.assert_close(alone(IMAGES)[:, 0], together(IMAGES)[:, expert])


@pytest.mark.parametrize("loss", [F.cross_entropy, one_vs_rest])
def test_experts_and_classes_may_change_places(loss):
    outputs = fresh(True, 3, 0)(IMAGES)
    order = torch.tensor([2, 0, 1])
    torch.testing.assert_close(loss(outputs[:, order], order.argsort()[LABELS]), loss(outputs, LABELS))


@pytest.mark.parametrize(("loss", "alone"), [(one_vs_rest, True), (F.cross_entropy, False)])
def test_one_by_one_no_expert_knows_another(loss, alone):
    gradients = []
    for shift in (0, 5):
        outputs = fresh(True, 3, 0)(IMAGES).detach() + torch.tensor([0, 0, shift])
        outputs.requires_grad_()
        gradients.append(torch.autograd.grad(loss(outputs, LABELS), outputs)[0][:, 0])
    assert torch.allclose(*gradients) == alone


def test_two_experts_are_a_logistic_model_of_their_difference():
    outputs = fresh(True, 2, 0)(IMAGES)
    labels = LABELS.clamp(max=1)
    logistic = F.binary_cross_entropy_with_logits(outputs[:, 1] - outputs[:, 0], labels.float())
    torch.testing.assert_close(F.cross_entropy(outputs, labels), logistic)


def test_corruptions_are_the_same_each_time_and_stay_in_range():
    for change in CHANGES.values():
        assert torch.equal(change(IMAGES), change(IMAGES))
        assert change(IMAGES).shape == IMAGES.shape
        assert 0 <= float(change(IMAGES).min()) <= float(change(IMAGES).max()) <= 1
