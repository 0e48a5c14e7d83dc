"""A frozen network with a small one beside it: what stays as it is, and what it is when a part is nothing."""

import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge import networks
from kedge.adaptation import adapt
from kedge.layer_ensemble import layer_ensemble_of, mean_answer, pooling
from kedge.objectives import CrossEntropy, Levi
from kedge.procedures.levi import without_head
from kedge.weights import reestimate_batch_norm
from tests.killing import afterwards, killed, places, watched
from tests.procedures.conftest import body, digits  # noqa: F401

IMAGES = torch.rand(9, 1, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(9) % 3
FEW = {"how": "levi", "epochs": 1, "augment": "none", "device": "cpu", "small": "kedge_resnet_small"}


def network(layers=("blocks.0", "blocks.1"), widths=(4, 8, 16), classes=3, small=6):
    torch.manual_seed(0)
    parts = {"body": {"kedge_resnet_small": {"width": 4}}, "small": {"kedge_resnet_small": {"width": small}}}
    arguments = {**parts, "layers": list(layers), "widths": list(widths)}
    return networks.create("kedge_levi", classes, 1, arguments=arguments)


@pytest.fixture
def model():
    return kedge.plain(network(), mean=0.4, std=0.3, example=(1, 8, 8))


@pytest.fixture(scope="module")
def adapted(request, tmp_path_factory):
    """A body taken to three digits, with its folder."""
    torch.manual_seed(0)
    old = networks.create("kedge_resnet_small", 7, 1, 8, arguments={"width": 4})
    old(torch.rand(64, 1, 8, 8))
    old = kedge.plain(old, mean=0.3, std=0.5, example=(1, 8, 8)).eval()
    train, val, _ = request.getfixturevalue("digits")
    return old, adapt(old, train, val, out=tmp_path_factory.mktemp("levi"), **FEW)


# What learns


def test_the_body_stays_as_it_is_to_the_bit_and_the_rest_learns(adapted, digits):  # noqa: F811
    old, after = adapted
    parts = after.model.network
    before = old.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in parts.body.state_dict().items())
    assert {"blocks.0.norm1.running_mean", "stem.weight"} <= parts.body.state_dict().keys()
    fresh = adapt(old, *digits[:2], **FEW).model.network  # the same seed makes the same again
    assert all(torch.equal(value, fresh.state_dict()[name]) for name, value in parts.state_dict().items())
    assert int(parts.small.blocks[0].norm1.num_batches_tracked) > 0  # of batches
    assert after.record["layers"] == ["blocks.0", "blocks.1", "features"]
    assert after.record["lr"] == pytest.approx(0.1 * 32 / 128)  # that of fresh weights


def test_the_body_is_in_eval_mode_and_learns_nothing_in_steps_of_any_loop(model):
    model.train()
    parts = model.network
    assert not any(module.training for module in parts.body.modules())
    assert parts.small.training
    before = {name: value.clone() for name, value in parts.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        Levi()(model, IMAGES, TARGETS).backward()
        optimizer.step()
    moved = {name for name, value in parts.state_dict().items() if not torch.equal(value, before[name])}
    assert not any(name.startswith("body.") for name in moved)
    learns = {name for name, p in parts.named_parameters() if not name.startswith("body.")}
    assert moved >= learns
    reestimate_batch_norm(model, [IMAGES])
    assert all(torch.equal(value, before[f"body.{name}"]) for name, value in parts.body.state_dict().items())


def test_its_parameters_are_those_of_the_small_network_and_of_linear_layers(model):
    small = timm.create_model("kedge_resnet_small", num_classes=0, in_chans=1, width=6)
    expected = sum(p.numel() for p in small.parameters()) + sum((d + 24 + 1) * 3 for d in (4, 8, 16))
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == expected


# What it is when a part is nothing


def test_one_layer_that_does_not_read_the_small_network_is_a_linear_probe(body, digits):  # noqa: F811
    probe = adapt(body, *digits[:2], how="linear-probe").model
    one = adapt(body, *digits[:2], layers=1, **FEW).model
    (layer,) = one.network.each
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, :16], layer.bias[:] = probe.network.fc.weight, probe.network.fc.bias
    torch.testing.assert_close(one(IMAGES), probe(IMAGES))


@torch.no_grad()
def test_layers_that_do_not_read_the_body_are_the_small_network_with_a_linear_layer(model):
    parts = model.network.eval()
    head = nn.Linear(24, 3)
    for layer, width in zip(parts.each, (4, 8, 16), strict=True):
        layer.weight.zero_()
        layer.weight[:, width:], layer.bias[:] = head.weight, head.bias
    alone = head(parts.small((IMAGES - 0.4) / 0.3))
    torch.testing.assert_close(model(IMAGES).softmax(1), alone.softmax(1))  # three equal ones are one
    loss = Levi()(model, IMAGES, TARGETS)
    assert float(loss) == pytest.approx(3 * float(F.cross_entropy(alone, TARGETS)), rel=1e-5)


def test_the_answer_is_the_mean_of_the_probabilities():
    logits = torch.randn(5, 3, 4, generator=torch.Generator().manual_seed(2)).double()
    each = np.exp(logits.numpy())
    expected = (each / each.sum(2, keepdims=True)).mean(1)
    np.testing.assert_allclose(mean_answer(logits).exp().numpy(), expected, rtol=1e-12)
    assert torch.equal(mean_answer(logits[:, :1]), logits[:, 0])
    far = torch.tensor([[[2000.0, 0.0], [0.0, 2000.0]]])
    torch.testing.assert_close(mean_answer(far).exp(), torch.tensor([[0.5, 0.5]]))


@torch.no_grad()
def test_an_adapting_layer_reads_the_pooled_output_of_its_layer(model):
    parts = model.network.eval()
    x = (IMAGES - 0.4) / 0.3
    first = parts.body.blocks[0](parts.body.norm_stem(parts.body.stem(x)))
    with pooling(parts.body, ["blocks.0"]) as pooled:
        features = parts.body(x)
    torch.testing.assert_close(pooled["blocks.0"], first.mean((2, 3)))
    views = [first.mean((2, 3)), parts.body.blocks[:2](parts.body.norm_stem(parts.body.stem(x))).mean((2, 3)), features]
    logits = [
        layer(torch.cat([view, parts.small(x)], 1)) for layer, view in zip(parts.each, views, strict=True)
    ]  # fmt: skip
    torch.testing.assert_close(model(IMAGES), mean_answer(torch.stack(logits, 1)))


# The loss


@pytest.mark.parametrize("count", [1, 3, 9])
def test_the_loss_is_the_sum_over_layers_and_of_one_the_cross_entropy(model, count):
    model.eval()
    images, targets = IMAGES[:count], TARGETS[:count]
    layer, parts = layer_ensemble_of(model)
    recorded = []
    with parts.apart.register_forward_hook(lambda _, __, out: recorded.append(out)):
        loss = Levi()(model, images, targets)
    assert layer == "network.apart"
    expected = sum(F.cross_entropy(recorded[0][:, i], targets) for i in range(3))
    torch.testing.assert_close(loss, expected)
    soft = F.one_hot(targets, 3).float()
    torch.testing.assert_close(Levi()(model, images, soft), loss)
    assert bool(loss / 3 >= CrossEntropy()(model, images, targets) - 1e-6)  # log is concave
    one = kedge.plain(network((), (16,)), mean=0.4, std=0.3, example=(1, 8, 8)).eval()
    torch.testing.assert_close(Levi()(one, images, targets), CrossEntropy()(one, images, targets))


# Folders


def test_its_folder_is_whole_and_gives_the_same_answers(adapted, tmp_path):
    _, after = adapted
    again = kedge.load(after.folder)
    assert torch.equal(again(IMAGES), after.model(IMAGES))
    copy = kedge.load(kedge.save(again, tmp_path / "copy"))
    assert torch.equal(copy(IMAGES), after.model(IMAGES))
    assert not any(p.requires_grad for p in copy.network.body.parameters())
    config = json.loads((after.folder / "model" / "config.json").read_text())
    assert config["architecture"]["arguments"]["body"] == {"kedge_resnet_small": {"width": 4}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"body": {"kedge_levi": {}}}, "body is"),
        ({"small": "resnet18"}, "small is"),
        ({"body": {"hf-hub:someone/thing": {}}}, "body is"),
        ({"body": {"resnet18": {"pretrained": True}}}, "pretrained"),
        ({"small": {"kedge_resnet_small": {"width": 10**9}}}, "width"),
        ({"layers": "blocks"}, "layers is"),
        ({"layers": ["nowhere", "blocks.1"]}, "nowhere"),
        ({"widths": [4]}, "widths"),
        ({"body": {}}, "body is"),
    ],
)
def test_a_tampered_description_is_refused_in_words(change, words):
    architecture = network().kedge_architecture
    arguments = {**architecture["arguments"], **change}
    with pytest.raises(ValueError, match=words):
        networks.rebuild({**architecture, "arguments": arguments})


def test_one_that_is_killed_ends_as_one_that_was_not(body, digits, tmp_path):  # noqa: F811
    def run(out):
        return adapt(body, *digits[:2], out=out, **{**FEW, "epochs": 2})

    with watched(tmp_path / "whole") as events:
        whole = run(tmp_path / "whole")
    renames = places(events, ("os.rename",))
    at = renames[len(renames) // 2]
    with killed(tmp_path / "killed", at):
        run(tmp_path / "killed")
    with afterwards():
        again = run(tmp_path / "killed")
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in again.model.state_dict().items())


@pytest.mark.parametrize(("to", "suffix"), [("torch", "pt2"), pytest.param("onnx", "onnx", marks=pytest.mark.slow)])
def test_it_is_exported(adapted, to, suffix, tmp_path):
    """`export` runs the file and compares it with the model."""
    if to == "onnx":
        pytest.importorskip("onnxruntime")
    from kedge.deploy import export

    assert export(kedge.load(adapted[1].folder), tmp_path / f"model.{suffix}", to).path.is_file()


# Bodies


def test_a_body_of_timm_with_other_layers(digits):  # noqa: F811
    torch.manual_seed(0)
    old = kedge.plain(timm.create_model("resnet10t", num_classes=4, in_chans=1), mean=0.3, std=0.5, example=(1, 32, 32))
    spec, cut = without_head(old.eval(), "fc")
    assert spec == {"resnet10t": {}}
    assert cut(torch.rand(2, 1, 32, 32)).shape == (2, 512)


def refused(model, digits, words, **more):  # noqa: F811
    with pytest.raises(ValueError, match=words):
        adapt(model, *digits[:2], **{**FEW, **more})


def test_what_it_cannot_take_is_refused_before_training(body, anchored_body, digits):  # noqa: F811
    refused(anchored_body, digits, "plain model")
    refused(body, digits, "--layers 3 is the most", layers=4)
    refused(body, digits, "layers must be 1 or more", layers=0)
    refused(body, digits, "small", small="torchvision/resnet18")
    refused(body, digits, "no network is named", small="nothing_like_it")
    own = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    refused(kedge.plain(own, mean=0.3, std=0.5, example=(1, 8, 8)), digits, "name in timm")
    sizes = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
    tokens = timm.create_model("vit_tiny_patch16_224", num_classes=4, in_chans=1, **sizes)
    refused(kedge.plain(tokens, mean=0.3, std=0.5, example=(1, 8, 8)), digits, "layers are too many")


@pytest.fixture
def anchored_body(body):  # noqa: F811
    made = kedge.anchor(body)
    made.references = torch.rand(3, 1, 8, 8)
    return made.eval()


def test_its_loss_is_refused_for_a_network_without_adapting_layers(body):  # noqa: F811
    with pytest.raises(ValueError, match="kedge adapt MODEL --data FOLDER --how levi"):
        Levi().prepare(body)


def test_it_is_not_anchored():
    with pytest.raises(ValueError, match="cannot be anchored"):
        kedge.anchor(network(), mean=0.4, std=0.3, example=(1, 8, 8))
