import copy
from collections import OrderedDict

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kedge
from kedge.weights import interpolate, interpolate_models
from tests.weights.conftest import disturbed


def same(one, other):
    assert list(one) == list(other)
    for name, value in one.items():
        assert value.dtype == other[name].dtype
        assert torch.equal(value, other[name]), name
    return True


def test_by_hand():
    a = {"w": torch.tensor([0.0, 2.0]), "n": torch.tensor(3)}
    b = {"w": torch.tensor([1.0, -2.0]), "n": torch.tensor(7)}
    quarter = interpolate(a, b, 0.25)
    assert quarter["w"].tolist() == [0.25, 1.0]
    assert int(quarter["n"]) == 7
    assert interpolate(a, b, 0.5)["w"].tolist() == [0.5, 0.0]


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_the_ends_of_timm_networks_are_the_models_to_the_bit_and_the_middle_is_the_mean(name):
    a, b = (disturbed(timm.create_model(name, num_classes=4), seed).state_dict() for seed in (1, 2))
    before = copy.deepcopy([a, b])
    assert same(interpolate(a, b, 0), a)
    assert same(interpolate(a, b, 1), b)
    middle = interpolate(a, b, 0.5)
    for key, value in middle.items():
        wanted = (a[key].double() + b[key].double()) / 2 if value.is_floating_point() else b[key]
        torch.testing.assert_close(value, wanted.to(value.dtype), rtol=1e-6, atol=1e-7)
        assert value.data_ptr() not in (a[key].data_ptr(), b[key].data_ptr())
    assert same(before[0], a)
    assert same(before[1], b)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0, 1),
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]),
    st.lists(st.integers(0, 3), max_size=3),
    st.integers(0, 100),
)
def test_every_dtype_and_shape_is_the_formula_in_float64_rounded_once(alpha, dtype, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for _ in range(2))
    found = interpolate({"w": a}, {"w": b}, alpha)["w"]
    assert found.dtype == dtype
    assert found.shape == torch.Size(shape)
    wanted = (1 - alpha) * a.double() + alpha * b.double()
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(found.double(), wanted, rtol=eps, atol=8 * torch.finfo(torch.float32).eps)


def test_what_is_equal_in_both_stays_so_whatever_it_is():
    odd = torch.tensor([0.1, 1 / 3, -torch.inf, torch.inf, 1e-45, 3e38])
    for alpha in (0.1, 0.3, 0.7):
        assert torch.equal(interpolate({"w": odd}, {"w": odd.clone()}, alpha)["w"], odd)


def test_the_other_end_is_not_looked_at_in_an_end():
    a, b = {"w": torch.ones(2)}, {"w": torch.tensor([torch.inf, torch.nan])}
    assert torch.equal(interpolate(a, b, 0)["w"], torch.ones(2))
    assert torch.equal(interpolate(b, a, 1.0)["w"], torch.ones(2))


def test_shared_weights_stay_shared():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(3, 3)
            self.other = nn.Linear(3, 3)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(self.one(x))

    a, b = Tied(), Tied()
    made = interpolate_models(a, b, 0.3)
    assert made.one.weight is made.other.weight
    torch.testing.assert_close(made.one.weight, 0.7 * a.one.weight + 0.3 * b.one.weight)


def test_entries_that_are_no_tensors_are_the_second_ones():
    a, b = OrderedDict(w=torch.zeros(1), _extra_state={"n": 1}), OrderedDict(w=torch.ones(1), _extra_state={"n": 2})
    assert interpolate(a, b, 0.5)["_extra_state"] == {"n": 2}
    assert interpolate(a, b, 0)["_extra_state"] == {"n": 1}


@pytest.mark.parametrize("alpha", [-0.1, 1.1, float("nan"), float("inf"), "much", None])
def test_alpha_is_between_the_models(alpha):
    with pytest.raises(ValueError, match="alpha"):
        interpolate({"w": torch.zeros(1)}, {"w": torch.ones(1)}, alpha)


def test_other_keys_shapes_and_dtypes_are_named():
    one = {"conv.weight": torch.zeros(4, 3), "n": torch.tensor(0)}
    with pytest.raises(ValueError, match=r"the second has no 'conv.weight' and 1 more"):
        interpolate(one, {}, 0.5)
    with pytest.raises(ValueError, match=r"the first has no 'bias'$"):
        interpolate(one, one | {"bias": torch.zeros(4)}, 0.5)
    with pytest.raises(ValueError, match=r"'conv.weight' is \[4, 3\] in the first and \[4, 6\] in the second"):
        interpolate(one, one | {"conv.weight": torch.zeros(4, 6)}, 0.5)
    with pytest.raises(ValueError, match=r"torch.float32 in the first and torch.float16 in the second"):
        interpolate(one, one | {"conv.weight": torch.zeros(4, 3).half()}, 0.5)
    with pytest.raises(ValueError, match="is a tensor in one"):
        interpolate(one, one | {"n": 3}, 0.5)


def test_a_model_in_between_is_like_the_second_without_what_was_fitted_to_its_logits(plains):
    a, b = plains
    b.class_names = ["a", "b", "c", "d", "e"]
    b.set_temperature(2.0)
    b.reject = {"score": "confidence", "threshold": 0.5, "coverage": 0.9}
    before = copy.deepcopy(b.state_dict())
    made = interpolate_models(a, b, 0.25)
    assert type(made) is kedge.PlainModel
    assert made.class_names == b.class_names
    assert made.steps == {}
    assert made.reject is None
    assert b.temperature == 2.0
    assert b.reject is not None
    assert not made.training
    same(b.state_dict(), before)
    for (name, value), one, other in zip(
        made.network.named_parameters(), a.network.parameters(), b.network.parameters(), strict=True
    ):
        torch.testing.assert_close(value, 0.75 * one + 0.25 * other, msg=name)
        assert value.requires_grad
    images = torch.rand(4, 1, 8, 8)
    assert torch.equal(interpolate_models(a, b, 0)(images), a(images))
    b.remove_step("temperature")
    assert torch.equal(interpolate_models(a, b, 1)(images), b(images))


def test_anchored_models_keep_the_bank_of_the_second(anchoreds):
    a, b = anchoreds
    b.residuals = torch.rand(2, 1, 8, 8) - 0.5
    made = interpolate_models(a, b, 0.5)
    assert torch.equal(made.references, b.references)
    assert torch.equal(made.residuals, b.residuals)
    half = (a.stem.reference.weight + b.stem.reference.weight) / 2
    torch.testing.assert_close(made.stem.reference.weight, half)
    images = torch.rand(4, 1, 8, 8)
    b.predict(images)  # keeps terms of its own weights
    expected = a.predict(images, references=b.references).logits
    torch.testing.assert_close(interpolate_models(a, b, 0).predict(images).logits, expected)
    torch.testing.assert_close(interpolate_models(a, b, 1).predict(images).logits, b.predict(images).logits)


def test_a_plain_model_is_anchored_for_an_anchored_one(plains, anchoreds):
    a, b = plains[0], anchoreds[1]
    images = torch.rand(4, 1, 8, 8)
    start = interpolate_models(a, b, 0)
    assert isinstance(start, kedge.AnchoredModel)
    torch.testing.assert_close(start.predict(images).logits, a(images))
    middle = interpolate_models(a, b, 0.5)
    weight = a.network.get_submodule(b.first_layer).weight
    torch.testing.assert_close(middle.stem.reference.weight, (weight + b.stem.reference.weight) / 2)
    torch.testing.assert_close(middle.stem.residual.weight, (weight + b.stem.residual.weight) / 2)
    assert torch.equal(middle.references, b.references)
    assert isinstance(a, kedge.PlainModel)
    with pytest.raises(ValueError, match="the first model is anchored and the second is not"):
        interpolate_models(b, a, 0.5)


def test_a_network_of_one_layer_and_a_vit(plains):
    one = [kedge.plain(nn.Linear(4, 2), example=(4,)), kedge.anchor(nn.Linear(4, 2), example=(4,))]
    assert isinstance(interpolate_models(*one, 0.5), kedge.AnchoredModel)
    a, b = (disturbed(timm.create_model("test_vit", num_classes=3, img_size=32), seed).eval() for seed in (1, 2))
    a, b = kedge.plain(a, example=(3, 32, 32)), kedge.anchor(b, example=(3, 32, 32))
    images = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(interpolate_models(a, b, 0)(images), a(images), atol=1e-5, rtol=1e-5)
    assert torch.equal(interpolate_models(a, b, 1)(images), b(images))


def test_models_that_cannot_be_averaged_say_why(plains, anchoreds):
    a, b = plains

    def refused(match, **changes):
        other = copy.deepcopy(b)
        for name, value in changes.items():
            setattr(other, name, value)
        with pytest.raises(ValueError, match=match):
            interpolate_models(a, other, 0.5)

    a.class_names = list("abcde")
    refused("in another order: 'd' stands where the second has 'e'", class_names=list("abced"))
    refused("so their outputs mean other things", class_names=list("abcdf"))
    refused(
        "normalise differently: mean is .0.3. in the first and .0.4. in the second", mean=torch.full_like(b.mean, 0.4)
    )
    refused("std is", std=torch.full_like(b.std, 0.4))
    refused("differ in input_shape", input_shape=(1, 16, 16))
    refused("differ in task", task="regression")
    network = kedge.networks.create("kedge_resnet_small", 5, 1, 8, arguments={"width": 8})
    refused("weights of different networks: .* is .* in the first", network=network)
    refused(
        "the networks differ: kedge_resnet_small and kedge_resnet18",
        network=kedge.networks.create("kedge_resnet18", 5, 1, 8),
    )
    with pytest.raises(ValueError, match="differ in num_outputs: 5 and 4"):
        interpolate_models(a, kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), example=(1, 8, 8)), 0.5)
    with pytest.raises(ValueError, match="one is a kedge model and b is a bare network"):
        interpolate_models(a, b.network, 0.5)
    with pytest.raises(ValueError, match=r"between 0 .* and 1 .*got 2"):
        interpolate_models(a, b, 2)
    with pytest.raises(ValueError, match="the networks differ: Linear and Conv2d"):
        interpolate_models(nn.Linear(1, 1), nn.Conv2d(1, 1, 1), 0.5)
    anchoreds[0].first_layer = "elsewhere"
    with pytest.raises(ValueError, match="anchored at different layers"):
        interpolate_models(*anchoreds, 0.5)
