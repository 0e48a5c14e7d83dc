import pytest
import timm
import torch
from torch import nn

import kedge
from tests.anchoring.conftest import SmallNet, disturb


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_nfnet", "test_efficientnet"])
@pytest.mark.parametrize("reference", [0, 2])
def test_folded_equals_anchored(name, reference):
    model = disturb(kedge.anchor(timm.create_model(name, num_classes=7).eval()), 0.05)
    model.references = torch.rand(3, *model.input_shape)
    images = torch.rand(4, *model.input_shape)
    expected = model(images, model.references[reference : reference + 1])
    folded = model.fold(reference)
    assert (folded(images) - expected).abs().max() <= 1e-5 * max(1, expected.abs().max())
    assert not any(isinstance(module, kedge.AnchoredModel) for module in folded.modules())


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
def test_padding_is_exact_at_the_borders(padding_mode):
    stem = nn.Conv2d(3, 5, 5, padding=2, padding_mode=padding_mode)
    model = disturb(kedge.anchor(nn.Sequential(stem, nn.Flatten()), example=(3, 9, 9), mean=[0.1, 0.5, 0.9], std=0.2))
    model.references = torch.rand(2, 3, 9, 9)
    images = torch.rand(3, 3, 9, 9)
    assert torch.allclose(model.fold(1)(images), model(images, model.references[1:]), atol=1e-5)


def test_vectors_and_flattened_images_fold():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(2 * 5 * 4, 6))
    model = disturb(kedge.anchor(flat, example=(2, 5, 4), mean=[0.1, 0.7], std=[0.5, 2])).eval()
    model.references = torch.rand(1, 2, 5, 4)
    images = torch.rand(3, 2, 5, 4)
    assert torch.allclose(model.fold()(images), model(images), atol=1e-5)
    vectors = disturb(kedge.anchor(nn.Linear(4, 2), example=(4,), mean=[0.1, 0.2, 0.3, 0.4], std=[1, 2, 3, 4])).eval()
    assert torch.allclose(vectors.fold()(images[:, 0, 0]), vectors(images[:, 0, 0]), atol=1e-5)


def test_the_mean_reference_without_normalisation_becomes_a_bias():
    model = kedge.anchor(SmallNet().eval(), example=(3, 16, 16))
    folded = model.fold()
    assert folded.stem.map is None
    assert folded(torch.rand(1, 3, 24, 24)).shape == (1, 5)


@pytest.mark.parametrize("padding_mode", ["zeros", "reflect", "circular"])
def test_the_mean_reference_needs_no_map_and_takes_any_size(padding_mode):
    stem = nn.Conv2d(3, 5, 5, stride=2, padding=2, padding_mode=padding_mode)
    network = nn.Sequential(stem, nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten())
    model = disturb(kedge.anchor(network, example=(3, 16, 16), mean=[0.1, 0.5, 0.9], std=[0.2, 0.3, 0.4])).eval()
    folded = model.fold()
    assert folded[0].map is None
    for size in ((16, 16), (21, 30)):
        images = torch.rand(3, 3, *size)
        assert torch.allclose(folded(images), model(images), atol=1e-5)


def test_a_folded_model_leaves_what_a_hook_sees_and_the_pixels_alone(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.3)).eval()
    model.references = torch.rand(1, 3, 16, 16)
    folded, seen, images = model.fold(), [], torch.rand(2, 3, 16, 16)
    before, expected = images.clone(), folded(images)
    folded.stem.layer.register_forward_hook(lambda _, __, out: seen.append((out, out.clone())))
    assert torch.equal(folded(images), expected)
    assert torch.equal(*seen[0])
    assert torch.equal(images, before)
    images.requires_grad_()
    folded(images).sum().backward()
    slope, images.grad = images.grad, None
    model(images).sum().backward()
    assert torch.allclose(slope, images.grad, atol=1e-5)


def test_another_image_size(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.3)).eval()
    model.references = torch.rand(1, 3, 16, 16)
    images = torch.rand(2, 3, 24, 20)
    assert torch.allclose(model.fold(image_size=(24, 20))(images), model(images), atol=1e-5)


def test_folding_does_not_touch_the_model_and_outlives_it(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16))).train()
    folded = model.fold()
    images = torch.rand(2, 3, 16, 16)
    before = folded(images)
    disturb(model)
    assert torch.equal(folded(images), before)
    assert model.training
    assert not folded.training


def test_folding_under_autocast_is_folding(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.3)).eval()
    model.references = torch.rand(1, 3, 16, 16)
    with torch.autocast("cpu", torch.bfloat16):
        folded = model.fold()
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(folded(images), model.fold()(images))


def test_a_reference_that_is_not_there(net):
    with pytest.raises(IndexError, match="reference 1 is not in the bank, which holds 1"):
        kedge.anchor(net, example=(3, 16, 16)).fold(1)


def test_torch_export_takes_a_folded_model(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.3)).eval()
    images = torch.rand(3, 3, 16, 16)
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(model.fold(), (images,), dynamic_shapes=({0: batch},))
    assert torch.allclose(program.module()(images[:2]), model(images[:2]), atol=1e-5)


def test_a_folded_model_says_that_it_is_for_one_size(net):
    model = disturb(kedge.anchor(net, example=(3, 16, 16), mean=0.5, std=0.3)).eval()
    model.references = torch.rand(1, 3, 16, 16)
    with pytest.raises(ValueError, match=r"folded for one image size, and \[20, 20\] is another"):
        model.fold()(torch.rand(1, 3, 20, 20))
    assert model.fold(image_size=20)(torch.rand(1, 3, 20, 20)).shape == (1, 5)
