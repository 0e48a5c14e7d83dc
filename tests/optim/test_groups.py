import timm
import torch
from torch import nn

from kedge.optim import parameter_groups


def names_in(model, parameters):
    wanted = {id(p) for p in parameters}
    return {name for name, p in model.named_parameters() if id(p) in wanted}


def test_norms_and_biases_do_not_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2))
    decay, rest = parameter_groups(model, 0.1)
    assert names_in(model, decay["params"]) == {"0.weight", "3.weight"}
    assert names_in(model, rest["params"]) == {"0.bias", "1.weight", "1.bias", "3.bias"}
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)


def test_agrees_with_timms_own_grouping_on_a_vit_also_inside_a_wrapper():
    from timm.optim import param_groups_weight_decay

    vit = timm.create_model("test_vit", num_classes=3)
    theirs = param_groups_weight_decay(vit, 0.05, no_weight_decay_list=vit.no_weight_decay())
    expected = next(names_in(vit, g["params"]) for g in theirs if g["weight_decay"] == 0)
    outer = nn.Sequential(vit)
    _, rest = parameter_groups(outer, 0.05)
    assert names_in(vit, rest["params"]) == expected
    assert "pos_embed" in expected


def test_frozen_parameters_are_left_out_and_shared_ones_listed_once():
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    groups = parameter_groups(model, 0.1)
    listed = [p for g in groups for p in g["params"]]
    assert len(listed) == 2
    assert len({id(p) for p in listed}) == 2


def test_every_parameter_is_in_one_group():
    model = timm.create_model("test_resnet")
    listed = [p for g in parameter_groups(model, 0.1) for p in g["params"]]
    assert sum(p.numel() for p in listed) == sum(p.numel() for p in model.parameters())
    torch.optim.SGD(parameter_groups(model, 0.1), lr=0.1)


def test_norms_over_several_axes_do_not_decay():
    import torch

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.LayerNorm([4, 8, 8]))
    decay, rest = parameter_groups(model, 0.1)
    assert [id(p) for p in decay["params"]] == [id(model[0].weight)]
    assert len(rest["params"]) == 3
