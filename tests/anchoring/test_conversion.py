import copy
import warnings

import pytest
import timm
import torch
import torchvision
from torch import nn

import kedge
from tests.anchoring.conftest import SmallNet

TIMM = [
    "resnet18",
    "resnet50",
    "vit_tiny_patch16_224",
    "convnext_atto",
    "efficientnet_b0",
    "swin_tiny_patch4_window7_224",
    "nfnet_l0",  # weight-standardised stem
    "tf_efficientnet_b0",  # "same" padding computed from the input
    "mobilenetv3_small_100",
    *timm.list_models("test_*"),
]


def assert_same_function(model, anchored, shape, tolerance=1e-5):
    images, references = torch.rand(2, *shape), torch.rand(2, *shape)
    with torch.no_grad():
        expected = model((images - anchored.mean) / anchored.std)
        for logits in (
            anchored(images),
            anchored(images, references),
            anchored(images, references[:1]),
            anchored.predict(images, references=torch.rand(3, *shape)).logits,
        ):
            assert (logits - expected).abs().max() <= tolerance * max(1, expected.abs().max())


@pytest.mark.parametrize("name", TIMM)
def test_timm_networks_convert_exactly(name):
    model = timm.create_model(name, num_classes=7).eval()
    shape = model.pretrained_cfg["input_size"]
    anchored = kedge.anchor(model)
    assert anchored.num_outputs == 7
    assert anchored.input_shape == shape
    assert anchored.mean.flatten().tolist() == pytest.approx(model.pretrained_cfg["mean"])
    if shape[1] > 200 and not model.pretrained_cfg.get("fixed_input_size"):  # the same layers, at a fifth of the time
        shape = (3, 96, 96)
        anchored = kedge.anchor(model, example=shape)
    assert_same_function(model, anchored, shape)


@pytest.mark.parametrize("name", ["resnet18", pytest.param("vit_b_16", marks=pytest.mark.slow)])
def test_torchvision_networks_convert_exactly(name):
    size = {"image_size": 64} if name == "vit_b_16" else {}  # the same layers, on a tenth of the patches
    model = torchvision.models.get_model(name, num_classes=7, **size).eval()
    torch.nn.init.normal_(model.heads.head.weight if name == "vit_b_16" else model.fc.weight, std=0.02)
    shape = (3, 64, 64) if size else (3, 96, 96)
    anchored = kedge.anchor(model, example=shape, mean=[0.485, 0.456, 0.406], std=[0.229, 0.224, 0.225])
    assert_same_function(model, anchored, shape)


@pytest.mark.parametrize("shape", [(1, 28, 28), (4, 33, 47), (3, 8, 8), (7, 64, 31)])
def test_any_channels_and_odd_sizes(shape):
    model = SmallNet(shape[0]).eval()
    assert_same_function(model, kedge.anchor(model, example=shape, mean=0.4, std=0.2), shape)


@pytest.mark.parametrize("channels", [1, 4])
def test_timm_with_other_channels_reads_its_arguments(channels):
    model = timm.create_model("test_resnet", in_chans=channels, num_classes=3).eval()
    anchored = kedge.anchor(model)
    assert anchored.input_shape == (channels, *model.pretrained_cfg["input_size"][1:])
    assert_same_function(model, anchored, anchored.input_shape)


def test_mlp_on_vectors_and_on_flattened_images():
    vectors = nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 3))
    assert_same_function(vectors, kedge.anchor(vectors, example=torch.rand(2, 12), mean=0.5, std=2.0), (12,))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 4, 16), nn.ReLU(), nn.Linear(16, 3))
    assert_same_function(flat, kedge.anchor(flat, example=(2, 5, 4), mean=[0.1, 0.7], std=[0.5, 2]), (2, 5, 4))
    single = nn.Linear(6, 2)
    assert_same_function(single, kedge.anchor(single, example=(6,)), (6,))


@pytest.mark.parametrize(
    "layer",
    [
        nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 8, 3)),
        nn.Conv2d(4, 8, 3, groups=2, padding=1, padding_mode="reflect"),
        nn.Conv2d(4, 8, 3, dilation=2, padding="same", bias=False),
    ],
    ids=["weight norm", "groups", "dilated"],
)
def test_other_affine_first_layers(layer):
    model = nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)).eval()
    assert_same_function(model, kedge.anchor(model, example=(4, 16, 16), mean=0.5, std=0.25), (4, 16, 16))


def test_the_callers_model_is_untouched_and_its_mode_kept(net):
    before = copy.deepcopy(net.state_dict())
    anchored = kedge.anchor(net.train(), example=(3, 16, 16))
    assert anchored.training
    assert net.training
    assert type(net.stem) is nn.Conv2d
    for name, value in net.state_dict().items():
        assert torch.equal(value, before[name])


def test_half_precision_and_channels_last(net):
    model = kedge.anchor(net.half(), example=(3, 16, 16)).to(memory_format=torch.channels_last)
    images = torch.rand(4, 3, 16, 16)
    assert model(images).dtype == torch.float16
    assert torch.allclose(model(images), model(images, torch.rand(4, 3, 16, 16)), atol=5e-3)


def test_a_plain_model_is_anchored_with_its_own_normalisation(net):
    plain = kedge.plain(net, example=(3, 16, 16), mean=[0.4, 0.5, 0.6], std=0.3)
    anchored = kedge.anchor(plain)
    images = torch.rand(3, 3, 16, 16)
    assert torch.allclose(plain(images), anchored(images, torch.rand(3, 3, 16, 16)), atol=1e-6)
    assert torch.allclose(plain.predict(images).logits, plain.fold()(images))
    assert plain.predict(images).uncertainty is None


def test_without_a_shape_the_error_asks_for_an_example(net):
    with pytest.raises(ValueError, match="example"):
        kedge.anchor(net)


def test_nothing_affine_is_an_error_that_lists_what_was_tried():
    class Square(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.rand(3, 1, 1))

        def forward(self, x):
            return (x * self.weight) ** 2

    model = nn.Sequential(Square(), nn.Flatten(), nn.Linear(3 * 4 * 4, 2))
    with pytest.raises(ValueError, match=r"0 \(Square\) is not affine .*2 \(Linear\)"):
        kedge.anchor(model, example=(3, 4, 4))
    with pytest.raises(ValueError, match=r"BatchNorm2d\) normalises by batch statistics"):
        kedge.anchor(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 4), nn.Flatten()), example=(3, 4, 4))
    with pytest.raises(ValueError, match="nothing to anchor"):
        kedge.anchor(nn.Flatten(), example=(3, 4, 4))


def test_a_wrong_first_layer_is_named_in_the_error(net):
    with pytest.raises(ValueError, match=r"'steam' is not a module of the model.*stem \(Conv2d\)"):
        kedge.anchor(net, example=(3, 16, 16), first_layer="steam")
    assert kedge.anchor(net, example=(3, 16, 16), first_layer="stem").first_layer == "stem"


def test_an_input_used_twice_is_a_mismatch_that_is_reported():
    class Shortcut(SmallNet):
        def forward(self, x):
            return super().forward(x) + x.mean((1, 2, 3))[:, None]

    class TwoStems(SmallNet):
        def __init__(self):
            super().__init__()
            self.other = nn.Conv2d(3, 8, 1)

        def forward(self, x):
            return super().forward(x) + self.other(x).mean((1, 2, 3))[:, None]

    with pytest.raises(ValueError, match=r"differ from the model's by \d"):
        kedge.anchor(Shortcut().eval(), example=(3, 16, 16))
    with pytest.raises(ValueError, match="input is used elsewhere"):
        kedge.anchor(TwoStems().eval(), example=(3, 16, 16))


def test_models_that_do_not_return_logits(net):
    class Pair(SmallNet):
        def forward(self, x):
            return super().forward(x), x

    with pytest.raises(ValueError, match=r"must return one tensor \[B, C\], got tuple"):
        kedge.anchor(Pair(), example=(3, 16, 16))
    with pytest.raises(ValueError, match="could not be run on an input of shape"):
        kedge.anchor(net, example=(5, 16, 16))
    with pytest.raises(ValueError, match="anchored already"):
        kedge.anchor(kedge.anchor(net, example=(3, 16, 16)))


@pytest.mark.parametrize(("mean", "std"), [([0.1, 0.2], 1.0), (0.0, 0.0), (0.0, [1, -1, 1])])
def test_bad_normalisation(net, mean, std):
    with pytest.raises(ValueError, match=r"mean must|std must"):
        kedge.anchor(net, example=(3, 16, 16), mean=mean, std=std)


@pytest.mark.parametrize(
    "change",
    [
        lambda x: 2 * x - 1,
        lambda x: torch.log(x + 2),
        lambda x: x.flip(-1),
        lambda x: x.transpose(2, 3),
        lambda x: x.clamp(0, 0.5),
    ],
    ids=["scaled", "log", "flipped", "transposed", "clamped"],
)
def test_an_input_that_is_changed_before_the_first_layer_is_refused(change):
    # With equal halves every reference term is zero, so the outputs alone would not show it.
    class Changes(SmallNet):
        def forward(self, x):
            return super().forward(change(x))

    with pytest.raises(ValueError, match=r"does not get the image itself.*mean= and std="):
        kedge.anchor(Changes().eval(), example=(3, 16, 16))


def test_a_grey_normalisation_inside_the_model_is_refused():
    from torchvision.transforms import v2

    model = nn.Sequential(v2.Normalize([0.5], [0.5]), SmallNet(1)).eval()
    with pytest.raises(ValueError, match="mean= and std="):
        kedge.anchor(model, example=(1, 16, 16))


def test_weights_of_the_first_layer_used_elsewhere_are_noticed():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode = nn.Linear(6, 4, bias=False)

        def forward(self, x):
            return torch.tanh(self.encode(x)) @ self.encode.weight

    model = Tied()
    anchored = kedge.anchor(model, example=(6,))
    x = torch.rand(3, 6)
    assert torch.allclose(anchored(x), model(x), atol=1e-6)


def test_networks_that_ask_their_first_layer_for_its_attributes():
    class Asks(SmallNet):
        def forward(self, x):
            assert self.stem.stride == (2, 2)
            return super().forward(x.to(self.stem.weight.dtype))

    model = kedge.anchor(Asks().eval(), example=(3, 16, 16))
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(model.fold()(images), model(images), atol=1e-5)


def test_conversion_draws_nothing_from_the_global_generator(net):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.2).fold()
    assert torch.equal(torch.rand(1), expected)


def test_compiled_and_meta_models(net):
    images = torch.rand(2, 3, 16, 16)
    assert torch.allclose(kedge.anchor(torch.compile(net), example=(3, 16, 16))(images), net(images), atol=1e-6)
    with pytest.raises(ValueError, match="meta device"):
        kedge.anchor(SmallNet().to("meta"), example=(3, 16, 16))


def test_a_mean_in_units_of_255(net):
    with pytest.raises(ValueError, match="divide by 255"):
        kedge.anchor(net, example=(3, 16, 16), mean=[123.7, 116.3, 103.5], std=1.0)


@pytest.mark.parametrize("norm", ["weight_norm", "spectral_norm"])
@pytest.mark.parametrize("wrap", [kedge.anchor, kedge.plain])
@pytest.mark.parametrize("place", ["stem", "head"])
@pytest.mark.parametrize("used", [False, True])
def test_old_normalisations_of_weights_are_named(net, norm, wrap, place, used):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's own: they are deprecated
        getattr(torch.nn.utils, norm)(getattr(net, place))
    if used:
        with torch.no_grad():
            net(torch.rand(2, 3, 8, 8))
    with pytest.raises(
        ValueError, match=rf"{place}'.* old torch\.nn\.utils\.{norm}, .*parametrizations\.{norm}\(layer"
    ):
        wrap(net, example=(3, 8, 8))
    getattr(torch.nn.utils, f"remove_{norm}")(getattr(net, place))
    getattr(nn.utils.parametrizations, norm)(getattr(net, place))
    model = wrap(net.eval(), example=(3, 8, 8)).eval()
    images = torch.rand(2, 3, 8, 8)
    assert torch.allclose(model.fold()(images), model(images), atol=1e-5)
