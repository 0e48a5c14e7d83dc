import pytest
import timm
import torch
import torchvision

import kedge
from kedge import networks, torchvision_networks

OURS = ["kedge_resnet18", "kedge_resnet_small", "kedge_wrn_40_2"]


@pytest.mark.parametrize("name", OURS)
def test_ours_are_timm_models(name):
    network = timm.create_model(name, num_classes=7, in_chans=1).eval()
    images = torch.rand(2, 1, 32, 32)
    features = network.forward_features(images)
    assert network(images).shape == (2, 7)
    assert torch.equal(network.forward_head(features), network(images))
    assert network.forward_head(features, pre_logits=True).shape == (2, network.num_features)
    assert tuple(network.pretrained_cfg["input_size"]) == (3, 32, 32)
    network.reset_classifier(3)
    assert network(images).shape == (2, 3)
    network.reset_classifier(0)
    assert network(images).shape == (2, network.num_features)


def test_sizes_are_the_papers():
    count = {name: sum(p.numel() for p in timm.create_model(name).parameters()) for name in OURS}
    assert count["kedge_resnet18"] == 11_173_962  # the well-known CIFAR ResNet-18
    assert count["kedge_wrn_40_2"] == pytest.approx(2.2e6, rel=0.03)  # Zagoruyko and Komodakis, table 4
    assert 0.2e6 < count["kedge_resnet_small"] < 0.5e6


def test_the_cifar_stem_keeps_the_resolution():
    shapes = [f.shape for f in [networks.create("kedge_resnet18", 10).forward_features(torch.rand(1, 3, 32, 32))]]
    assert shapes == [(1, 512, 4, 4)]


@pytest.mark.parametrize("size", [8, 9, 28])
def test_small_and_odd_sizes(size):
    network = networks.create("kedge_resnet_small", 4, in_channels=2, image_size=size, arguments={"width": 8})
    assert network(torch.rand(3, 2, size, size)).shape == (3, 4)


@pytest.mark.parametrize(
    ("name", "size", "channels"),
    [("test_resnet", 32, 1), ("test_vit", 96, 3), ("torchvision/resnet18", 64, 1), ("squeezenet1_0", 64, 3)],
)
def test_create_and_rebuild_hold_the_same_weights(name, size, channels):
    network = networks.create(name, 5, channels, size).eval()
    again = networks.rebuild(network.kedge_architecture).eval()
    again.load_state_dict(network.state_dict())
    images = torch.rand(2, channels, size, size)
    assert torch.equal(network(images), again(images))
    assert network(images).shape == (2, 5)


def test_image_size_reaches_networks_built_for_one_size():
    assert networks.create("test_vit", 5, image_size=64)(torch.rand(1, 3, 64, 64)).shape == (1, 5)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("width", [2, 3])
def test_group_normalisation_in_place_of_batch_normalisation(name, width):
    shallow = {"depth": 10} if name == "kedge_wrn_40_2" else {}
    network = networks.create(name, 4, 2, arguments={"width": width, "norm": "group", **shallow}).train()
    kinds = {type(module) for module in network.modules()}
    assert torch.nn.GroupNorm in kinds
    assert torch.nn.BatchNorm2d not in kinds
    for module in network.modules():
        if isinstance(module, torch.nn.GroupNorm):
            assert module.num_groups <= 32
            assert module.num_channels % module.num_groups == 0
            assert module.num_channels // module.num_groups >= min(4, module.num_channels)
    images = torch.rand(3, 2, 8, 8)
    assert torch.allclose(network(images)[:1], network(images[:1]), atol=1e-5)  # in training too, of each image alone
    again = networks.rebuild(network.kedge_architecture).train()
    again.load_state_dict(network.state_dict())
    assert torch.equal(network(images), again(images))


def test_groups_at_the_usual_widths():
    network = networks.create("kedge_resnet18", 10, arguments={"norm": "group"})
    groups = {m.num_channels: m.num_groups for m in network.modules() if isinstance(m, torch.nn.GroupNorm)}
    assert groups == {64: 16, 128: 32, 256: 32, 512: 32}
    wide = networks.create("kedge_wrn_40_2", 10, arguments={"norm": "group"})
    assert {m.num_groups for m in wide.modules() if isinstance(m, torch.nn.GroupNorm)} == {4, 8, 16, 32}


@pytest.mark.parametrize("norm", ["layer", "torch.nn.BatchNorm2d", None, 1, True, ["group"], {"group": 1}])
def test_only_two_normalisations_are_known(norm):
    with pytest.raises(ValueError, match="norm is batch or group"):
        networks.create("kedge_resnet_small", 3, arguments={"norm": norm})


def test_an_unknown_name_suggests_near_ones():
    with pytest.raises(ValueError, match="kedge_resnet18"):
        networks.create("kedge_resnt18", 3)


@pytest.mark.parametrize("name", ["hf-hub:someone/model", "local-dir:/srv/x", "../x", "os.system", ""])
def test_only_registered_names_are_rebuilt(name):
    with pytest.raises(ValueError, match=r"no network|has no network"):
        networks.rebuild({"library": "timm", "name": name, "arguments": {}})


@pytest.mark.parametrize(
    "arguments",
    [
        {"act_layer": "torch.nn.ReLU"},
        {"pretrained": True},
        {"checkpoint_path": "/srv/x"},
        {"width": "8"},
        {"width": -1},
        {"width": 10**9},
        {"width": [[1]]},
    ],
)
def test_only_sizes_and_rates_are_accepted(arguments):
    with pytest.raises(ValueError, match="network argument"):
        networks.rebuild({"library": "timm", "name": "kedge_resnet_small", "arguments": arguments})


@pytest.mark.parametrize("architecture", [None, {}, {"library": "os", "name": "resnet18", "arguments": {}}])
def test_what_is_no_architecture_is_refused(architecture):
    with pytest.raises(ValueError, match="architecture"):
        networks.rebuild(architecture)


def test_arguments_a_network_does_not_take_are_named():
    with pytest.raises(ValueError, match="width"):
        networks.create("resnet18", 3, arguments={"width": 8})


def test_weights_nobody_published():
    with pytest.raises(ValueError, match="no pretrained weights were published"):
        networks.create("kedge_resnet18", 3, pretrained=True)


def test_weights_that_cannot_be_had(monkeypatch):
    original = timm.create_model

    def offline(name, pretrained=False, **arguments):
        if pretrained:
            raise OSError("no route to host")
        return original(name, **arguments)

    monkeypatch.setattr(timm, "create_model", offline)
    monkeypatch.setattr(networks, "_short_wait", __import__("contextlib").nullcontext)
    with pytest.raises(networks.PretrainedUnavailable, match="no route to host"):
        networks.create("resnet18", 3, pretrained=True)


def test_torchvision_weights_are_copied_where_they_fit(monkeypatch):
    import torchvision

    original = torchvision.models.get_model
    published = original("resnet18", weights=None)

    def get_model(name, weights=None, **arguments):
        return published if weights else original(name, weights=None, **arguments)

    monkeypatch.setattr(torchvision.models, "get_model", get_model)
    network = networks.create("torchvision/resnet18", 4, pretrained=True)
    assert torch.equal(network.layer1[0].conv1.weight, published.layer1[0].conv1.weight)
    assert torch.equal(network.conv1.weight, published.conv1.weight)
    assert network.fc.weight.shape == (4, 512)
    grey = networks.create("torchvision/resnet18", 4, in_channels=1, pretrained=True)
    assert torch.allclose(grey.conv1.weight, published.conv1.weight.sum(1, keepdim=True))


CLASSIFIERS = torchvision.models.list_models(module=torchvision.models)
COLOURS = torch.tensor([[0, 0, 0], [255, 255, 255], [200, 30, 90]], dtype=torch.uint8)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_images_reach_torchvisions_networks_as_their_weights_expect_them(name):
    # One colour all over: resizing and cropping, which are those of kedge, change nothing.
    published = torch.nn.Identity()
    if name in ("googlenet", "inception_v3"):  # what torchvision makes of them where it loads weights
        published = torchvision.models.get_model(name, init_weights=False, transform_input=True)
    images = torchvision_networks.published_images(name, published)
    transforms = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    for colour in COLOURS:
        expected = transforms(colour[:, None, None].expand(3, 40, 40))[None]
        if hasattr(published, "_transform_input"):
            expected = published._transform_input(expected)
        mean, std = torch.tensor(images["mean"]), torch.tensor(images["std"])
        assert torch.allclose((colour / 255 - mean) / std, expected[0, :, 0, 0], atol=1e-5)
    assert images["input_size"][1:] == tuple(expected.shape[2:])


def test_what_torchvision_has_beside_classifiers_is_no_network_here():
    for name in set(torchvision.models.list_models()) - set(CLASSIFIERS):
        if not timm.is_model(name):
            with pytest.raises(ValueError, match="no network is named"):
                networks.locate(f"torchvision/{name}")


@pytest.mark.parametrize(
    ("name", "wrap", "size"),
    [
        ("googlenet", kedge.anchor, 48),
        pytest.param("inception_v3", kedge.plain, 75, marks=pytest.mark.slow),
        ("mobilenet_v3_small", kedge.anchor, 48),
    ],
)
def test_published_weights_of_torchvision_give_the_published_answers(name, wrap, size, monkeypatch):
    torch.manual_seed(0)
    options = {"init_weights": False} if name != "mobilenet_v3_small" else {}
    published = torchvision.models.get_model(name, weights=None, **options)
    for parameter in published.parameters():
        if parameter.ndim > 1:  # far from what untrained networks are: all answers the same
            torch.nn.init.kaiming_normal_(parameter)
    weights = torchvision.models.get_model_weights(name).DEFAULT
    monkeypatch.setattr(type(weights), "get_state_dict", lambda *args, **kwargs: published.state_dict())
    original = torchvision.models.get_model(name, weights="DEFAULT").eval()
    images = torch.rand(4, 3, size, size)
    network = networks.create(f"torchvision/{name}", 1000, pretrained=True)
    model = wrap(network, example=(3, size, size)).eval()
    transforms = weights.transforms(crop_size=size, resize_size=size)
    with torch.no_grad():
        expected, logits = original(transforms(images)), model(images)
    assert (logits - expected).abs().max() < 1e-3 * expected.abs().max()
    assert torch.equal(logits.argmax(1), expected.argmax(1))


@pytest.mark.parametrize(
    ("channels", "expected"), [(1, [0.2]), (2, [0.1, 0.2]), (3, [0.1, 0.2, 0.3]), (5, [0.1, 0.2, 0.3, 0.1, 0.2])]
)
def test_the_normalisation_follows_the_weights_to_other_channels(channels, expected):
    network = timm.create_model("test_resnet", in_chans=channels, num_classes=3)
    network.pretrained_cfg = {**network.pretrained_cfg, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    model = kedge.plain(network)
    assert model.mean.flatten().tolist() == pytest.approx(expected)
    assert model.std.flatten().tolist() == pytest.approx([value + 0.3 for value in expected])


def test_repeated_channels_mean_what_the_colours_did():
    # With weights repeated over six channels, an image beside itself is the image, exactly.
    weight, models = torch.rand(8, 3, 3, 3), {}
    for channels in (3, 6):
        conv = torch.nn.Conv2d(channels, 8, 3, bias=False)
        conv.weight.data = timm.models.adapt_input_conv(channels, weight)
        network = torch.nn.Sequential(conv, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
        network.pretrained_cfg = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
        models[channels] = kedge.plain(network, example=(channels, 9, 9))
    images = torch.rand(2, 3, 9, 9)
    assert torch.allclose(models[6](images.repeat(1, 2, 1, 1)), models[3](images), atol=1e-5)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("tf_efficientnet_lite", "no network is named 'tf_efficientnet_lite' .*did you mean tf_efficientnet_lite0 or"),
        ("resnett18", "did you mean .*resnet18"),
        ("zzz", r"kedge.networks.names\(\) lists all"),
        ("resnet18.nope", "timm has no weights 'nope' for resnet18; did you mean resnet18"),
        ("timm/resnet18.a1", r"timm has no weights 'a1' for resnet18; did you mean resnet18.a1_in1k"),
        ("kedge_resnet18.a1", "timm has no weights 'a1' for kedge_resnet18$"),
    ],
)
def test_a_name_that_lacks_its_ending_or_has_a_wrong_one_is_answered_by_near_ones(name, words):
    with pytest.raises(ValueError, match=words):
        networks.locate(name)
