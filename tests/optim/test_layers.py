"""Layers with rates of their own, against timm's layer decay, and their release one after another."""

import pytest
import timm
import torch
from timm.optim import param_groups_layer_decay
from torch import nn

import kedge
from kedge import optim


def _numbers(network: nn.Module, head: str) -> dict[nn.Parameter, int]:
    numbers = optim.layer_numbers(network, head)
    return {p: numbers[name] for name, p in network.named_parameters()}


@pytest.mark.parametrize(
    ("name", "head"), [("resnet18", "fc"), ("tf_efficientnet_lite0", "classifier"), ("vit_tiny_patch16_224", "head")]
)
def test_rates_fall_from_layer_to_layer_as_timms_do(name: str, head: str) -> None:
    network = timm.create_model(name, num_classes=3)
    theirs = {p: g["lr_scale"] for g in param_groups_layer_decay(network, layer_decay=0.8) for p in g["params"]}
    groups = optim.by_layer(optim.parameter_groups(network, 0.05), _numbers(network, head), 0.01, 0.8, 1.0)
    ours = {p: g["lr"] for g in groups for p in g["params"]}
    assert len(ours) == len(theirs) == len(list(network.parameters()))
    # timm counts the layer below the head as one step down, kedge as the first at the full rate.
    for parameter, scale in theirs.items():
        expected = 0.01 if scale == 1 else 0.01 * scale / 0.8
        assert ours[parameter] == pytest.approx(expected)


def test_networks_that_say_nothing_are_split_by_the_order_of_their_parameters() -> None:
    network = nn.Sequential(*(nn.Linear(4, 4) for _ in range(14)), nn.Linear(4, 3))
    numbers = optim.layer_numbers(network, "14")
    assert [numbers[f"{i}.weight"] for i in (0, 5, 6, 11, 12, 13, 14)] == [3, 3, 2, 2, 1, 1, 0]


def test_a_converted_network_keeps_its_layers() -> None:
    network = timm.create_model("resnet18", num_classes=3)
    before = optim.layer_numbers(network, "fc")
    model = kedge.anchor(network, mean=[0.5] * 3, std=[0.5] * 3, example=(3, 64, 64))
    after = optim.layer_numbers(model.network, "fc")
    assert after["conv1.residual.weight"] == after["conv1.reference.weight"] == before["conv1.weight"]
    assert {n: v for n, v in after.items() if n.split(".")[0] != "conv1"} == {
        n: v for n, v in before.items() if n != "conv1.weight"
    }


def test_layers_are_let_go_from_the_head_down() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))
    numbers = {p: 2 - i // 2 for i, p in enumerate(network.parameters())}  # 2 at the image, 0 the head
    groups = optim.by_layer(optim.parameter_groups(network, 0.1), numbers, 1.0, 1.0, 5.0)
    optimizer = torch.optim.SGD(groups, lr=1.0)
    schedule = optim.constant(optimizer)
    optim.unfreezing(schedule, 3)
    start = [p.detach().clone() for p in network.parameters()]
    moved = []
    for _ in range(5):
        for p in network.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        schedule.step()
        moved.append([bool((p != s).any()) for p, s in zip(network.parameters(), start, strict=True)][::2])
    assert moved == [[False, True, True]] * 3 + [[True, True, True]] * 2
    assert {g["layer"]: g["lr"] for g in optimizer.param_groups} == {0: 5.0, 1: 1.0, 2: 1.0}
