import pytest
import timm
import torch
import torchvision
from torch import nn

import kedge
from kedge.scores import Outputs, last_layer, outputs_of

IMAGES = torch.rand(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def stirred(model: nn.Module, seed: int = 0) -> nn.Module:
    """No weight at its initial value: a head of zeros would explain everything."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def small() -> nn.Module:
    return stirred(kedge.networks.create("kedge_resnet_small", 7, arguments={"width": 8}))


def anchored(k: int = 4) -> kedge.AnchoredModel:
    model = stirred(kedge.anchor(small(), example=IMAGES))
    model.references = torch.rand(k, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    return model


def assert_explained(outputs: Outputs) -> None:
    weight, bias = outputs.head
    expected = outputs.features.double() @ weight.double().T + bias.double()
    torch.testing.assert_close(outputs.logits.double(), expected, rtol=1e-4, atol=1e-4)


NETWORKS = {
    "timm resnet": lambda: timm.create_model("test_resnet", num_classes=7),
    "timm vit": lambda: timm.create_model("test_vit", num_classes=7, img_size=32),
    "timm convnext": lambda: timm.create_model("test_convnext", num_classes=7),
    "timm efficientnet": lambda: timm.create_model("test_efficientnet", num_classes=7),
    "torchvision resnet": lambda: torchvision.models.resnet18(num_classes=7),
    "torchvision mobilenet": lambda: torchvision.models.mobilenet_v3_small(num_classes=7),
    "kedge wide": lambda: kedge.networks.create("kedge_wrn_40_2", 7, arguments={"depth": 10, "width": 1}),
    "convolution as head": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 7, 1), nn.Flatten()
    ),
    "convolution, then the mean": lambda: nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 7, 1, bias=False), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_features_and_head_explain_the_logits(name: str):
    model = stirred(NETWORKS[name]()).eval()
    outputs = outputs_of(model, IMAGES, features=True)
    assert_explained(outputs)
    torch.testing.assert_close(outputs.logits, model(IMAGES))


@pytest.mark.parametrize("name", ["timm resnet", "timm vit", "timm convnext"])
def test_kedge_models_of_timm_networks(name: str):
    network = stirred(NETWORKS[name]())
    assert_explained(outputs_of(kedge.plain(network, example=IMAGES), IMAGES, features=True))
    model = stirred(kedge.anchor(network, example=IMAGES))
    model.references = torch.rand(3, 3, 32, 32)
    outputs = outputs_of(model, IMAGES, features=True)
    assert_explained(outputs)
    torch.testing.assert_close(outputs.logits, model.predict(IMAGES).logits)


@pytest.mark.parametrize("references", [None, 1, 3, torch.rand(2, 3, 32, 32), torch.rand(3, 32, 32), "blt"])
@pytest.mark.parametrize("batch", [1, 5])
def test_anchored_features_are_the_mean_over_the_references(references, batch: int):
    model = anchored()
    model.residuals = torch.rand(6, 3, 32, 32) - 0.5
    images = IMAGES[:batch]
    outputs = outputs_of(model, images, references, features=True)
    prediction = model.predict(images, references=references)
    torch.testing.assert_close(outputs.logits, prediction.logits)
    assert (outputs.uncertainty is None) == (prediction.uncertainty is None)
    if prediction.uncertainty is not None:
        torch.testing.assert_close(outputs.uncertainty, prediction.uncertainty)
    assert_explained(outputs)


def test_adaptive_references_have_no_common_features():
    model = anchored(k=8)
    outputs, prediction = outputs_of(model, IMAGES, "adaptive", features=True), model.predict(IMAGES, "adaptive")
    assert outputs.features is None
    torch.testing.assert_close(outputs.logits, prediction.logits)
    torch.testing.assert_close(outputs.uncertainty, prediction.uncertainty)
    masked = outputs_of(model, IMAGES, "adaptive", masked=True).masked
    torch.testing.assert_close(masked, outputs_of(model, IMAGES, masked=True).masked)
    plain = kedge.plain(stirred(NETWORKS["timm resnet"]()), example=IMAGES)  # beside one that has references
    assert outputs_of(plain, IMAGES, "adaptive", features=True).features is not None


@pytest.mark.parametrize("batch", [3, 40, 70])
def test_parts_of_a_batch_keep_their_order(batch: int):
    model = anchored(k=33)  # more references than the 32 rows of a pass
    images = torch.rand(batch, 3, 8, 8)
    assert_explained(outputs_of(model, images, features=True))
    one = outputs_of(model, images[-1:], features=True)
    torch.testing.assert_close(outputs_of(model, images, features=True).features[-1:], one.features)


def test_folded_network():
    assert_explained(outputs_of(anchored().fold(), IMAGES, features=True))


def test_a_temperature_scales_the_logits_and_not_the_head():
    for model in (kedge.plain(small(), example=IMAGES), anchored()):
        before = outputs_of(model, IMAGES, features=True)
        model.set_temperature(2.5)
        after = outputs_of(model, IMAGES, features=True)
        torch.testing.assert_close(after.logits * 2.5, before.logits)
        torch.testing.assert_close(after.features, before.features)
        assert torch.equal(after.head[0], before.head[0])
        folded = outputs_of(model.fold(), IMAGES, features=True)
        torch.testing.assert_close(folded.features @ folded.head[0].T + folded.head[1], 2.5 * folded.logits)


@pytest.mark.parametrize("make", [small, anchored])
def test_an_empty_batch(make):
    model = make()
    model = model if isinstance(model, kedge.AnchoredModel) else kedge.plain(model, example=IMAGES)
    full = outputs_of(model, IMAGES, features=True, masked=True)
    empty = outputs_of(model, IMAGES[:0], features=True, masked=True)
    assert empty.features.shape == (0, full.features.shape[1])
    torch.testing.assert_close(Outputs.cat([full, empty]).features, full.features)


def test_one_pass_of_the_network():
    passes = []
    model = kedge.plain(small(), example=IMAGES)
    outputs_of(model, IMAGES, features=True)
    handle = model.network.register_forward_hook(lambda *_: passes.append(1))
    outputs_of(model, IMAGES, features=True)
    assert len(passes) == 1
    handle.remove()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_networks_without_a_last_layer():
    assert outputs_of(lambda x: x.flatten(1)[:, :3], IMAGES, features=True).features is None
    squeeze = torchvision.models.squeezenet1_1(num_classes=7).eval()  # ReLU after its last layer
    outputs = outputs_of(stirred(squeeze), IMAGES.repeat(1, 1, 2, 2), features=True)
    assert outputs.features is None
    assert outputs.head is None
    distilled = stirred(timm.create_model("deit_tiny_distilled_patch16_224", num_classes=7, img_size=32, embed_dim=48))
    assert last_layer(distilled, IMAGES) is None  # the mean of two heads
    assert last_layer(small(), IMAGES[:0]) is None


def test_another_head_is_found():
    model = small()
    first = last_layer(model, IMAGES)
    assert first is model.fc
    model.reset_classifier(4)
    assert last_layer(model, IMAGES) is model.fc
    assert first is not model.fc
    assert_explained(outputs_of(model, IMAGES, features=True))


def test_half_precision_and_modes():
    model = kedge.plain(small(), example=IMAGES).to(torch.bfloat16).train()
    outputs = outputs_of(model, IMAGES.bfloat16(), features=True)
    assert model.training
    assert outputs.features is not None
    torch.testing.assert_close(
        outputs.features.float() @ outputs.head[0].float().T + outputs.head[1].float(),
        outputs.logits.float(),
        rtol=0.1,
        atol=0.1,
    )


@pytest.mark.parametrize("references", [None, 2, "blt", torch.rand(3, 32, 32), torch.rand(3, 3, 32, 32)])
def test_masked_is_the_network_on_zero_and_the_residual(references):
    model = anchored(3).eval()
    model.residuals = torch.rand(6, 3, 32, 32) - 0.5
    outputs = outputs_of(model, IMAGES, references, masked=True)
    if isinstance(references, torch.Tensor):
        bank = references if references.ndim == 4 else references[None]
    else:
        bank = model.references[: references if isinstance(references, int) else None]
    x, rs = model.normalise(IMAGES), model.normalise(bank)
    stem = model.stem
    by_hand = []
    for r in rs:
        # W [0, x - r] + b, through the rest of the network.
        first = nn.functional.conv2d(x - r, stem.residual.weight, stem.residual.bias, padding=1)
        handle = stem.register_forward_hook(lambda *_, first=first: first)
        with torch.no_grad():
            by_hand.append(model.network(torch.cat([x, x], 1)))
        handle.remove()
    torch.testing.assert_close(outputs.masked, torch.stack(by_hand).mean(0), rtol=1e-4, atol=1e-4)
    assert outputs_of(kedge.plain(small(), example=IMAGES), IMAGES, masked=True).masked is None


def test_cat_and_to():
    model = anchored()
    parts = [outputs_of(model, IMAGES[:2], features=True, masked=True), outputs_of(model, IMAGES[2:], features=True)]
    whole = Outputs.cat(parts)
    assert len(whole) == 5
    assert whole.masked is None
    assert_explained(whole)
    torch.testing.assert_close(whole.features, outputs_of(model, IMAGES, features=True).features)
    moved = whole.to("cpu")
    assert torch.equal(moved.head[0], whole.head[0])
    assert moved.masked is None
    assert Outputs.cat([Outputs(IMAGES.flatten(1)[:, :7]), whole]).head is None
    with pytest.raises(ValueError, match="empty"):
        Outputs.cat([])


def test_scores_of_anchored_models_do_not_feel_a_temperature():
    from kedge.scores import AMP, Masked

    torch.manual_seed(0)
    model = kedge.anchor(torch.nn.Sequential(torch.nn.Conv2d(1, 5, 4), torch.nn.Flatten()), example=(1, 4, 4))
    model.references = torch.rand(3, 1, 4, 4)
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.5)
    images = torch.rand(6, 1, 4, 4)
    before = outputs_of(model.eval(), images, masked=True)
    model.set_temperature(0.5)
    after = outputs_of(model, images, masked=True)
    torch.testing.assert_close(after.logits, before.logits * 2)
    assert after.to("cpu").temperature == Outputs.cat([after, after]).temperature == 0.5
    for score in (AMP(), Masked()):
        torch.testing.assert_close(score.score(after), score.score(before))
