"""What people hand to the Python functions by mistake, and what they are told."""

import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

import kedge
from kedge import data, evaluation, networks, objectives
from kedge.adaptation import adapt
from kedge.attacks import PGD
from kedge.devices import chosen_device, devices_here
from kedge.training import calibrate, fit

IMAGES, LABELS = torch.rand(4, 3, 8, 8), torch.tensor([1, 2, 3, 4])
SET = data.TensorSet((IMAGES * 255).byte(), LABELS - 1, list("abcd"), "some")
LOADER = DataLoader(TensorDataset(IMAGES, LABELS), 2)


@pytest.fixture(scope="module", params=["anchored", "plain"])
def model(request):
    network = networks.create("kedge_resnet_small", 4, 3, 8, arguments={"width": 8})
    return (kedge.anchor if request.param == "anchored" else kedge.plain)(network, example=(3, 8, 8)).eval()


@pytest.mark.parametrize(
    ("images", "error", "words"),
    [
        (IMAGES.numpy(), TypeError, r"tensor \[B, C, H, W\], got numpy.ndarray; torch.from_numpy\(array\) makes one"),
        ([IMAGES[0]], TypeError, r"got list; torch.stack\(list\)"),
        ((IMAGES, LABELS), TypeError, r"got tuple; .* pass the two"),
        (LOADER, TypeError, "got torch.DataLoader; pass its batches"),
        ("cat.jpg", TypeError, "got str; kedge.data.read_image"),
        (Image.new("RGB", (8, 8)), TypeError, "got PIL.Image; kedge.data.read_image"),
        (None, TypeError, "got NoneType"),
        (torch.rand(4, 8, 8, 3), ValueError, r"got \[4, 8, 8, 3\]; .* come first: images.permute\(0, 3, 1, 2\)"),
        (torch.rand(8, 8, 3), ValueError, r"images\[None\]; the channels come first: images.permute\(2, 0, 1\)"),
        (torch.rand(4, 8, 8), ValueError, r"got \[4, 8, 8\]"),
    ],
)  # fmt: skip
def test_images(model, images, error, words):
    for ask in (model, model.predict):
        with pytest.raises(error, match=words):
            ask(images)


@pytest.mark.parametrize("objective", [objectives.CrossEntropy(), objectives.Anchored(objectives.CrossEntropy(), 0.0)])
@pytest.mark.parametrize(
    ("images", "targets", "error", "words"),
    [
        (IMAGES, LABELS, ValueError, "classes 0 to 3 of the model, got 4; where yours begin with 1, subtract 1"),
        (IMAGES, LABELS - 2, ValueError, "classes 0 to 3 of the model, got -1$"),
        (IMAGES, LABELS.tolist(), TypeError, r"targets must be a torch tensor \[B\] or \[B, C\], got list"),
        (IMAGES, LABELS.numpy(), TypeError, "targets must be a torch tensor .* got numpy.ndarray"),
        (IMAGES, None, TypeError, "targets must be a torch tensor .* got NoneType"),
        (IMAGES, LABELS[:2] - 1, ValueError, r"class indices \[4\] or probabilities \[4, 4\], got torch.int64 \[2\]"),
        (IMAGES.numpy(), LABELS - 1, TypeError, "images must be a torch tensor"),
    ],
)
def test_batches_of_a_training_loop(objective, images, targets, error, words):
    network = networks.create("kedge_resnet_small", 4, 3, 8, arguments={"width": 8})
    model = kedge.anchor(network, example=(3, 8, 8)).train()
    with pytest.raises(error, match=words):
        objective(model, images, targets)
    with pytest.raises(error):
        PGD(8 / 255)(model.eval(), images, targets)


@pytest.mark.parametrize("wrong", [LOADER, [(IMAGES, LABELS)], IMAGES, IMAGES.numpy(), LOADER.dataset, "digits", None])
def test_image_sets(model, wrong):
    words = f"must be an image set of kedge.data, got {type(wrong).__name__}: kedge.data.load reads one"
    for ask in (
        lambda: evaluation.evaluate(model, wrong, shift=()),
        lambda: evaluation.evaluate(model, SET, shift=(), ood={"other": wrong}),
        lambda: calibrate(model, wrong),
        lambda: adapt(model, wrong, None),
        lambda: fit({"epochs": 1}, sets=(wrong, SET)),
    ):
        with pytest.raises(TypeError, match=words):
            ask()


def test_labels_that_begin_with_one(model):
    with pytest.raises(
        ValueError, match="has 4 classes, but its labels go from 1 to 4; classes count from 0: subtract 1"
    ):
        evaluation.evaluate(model, data.TensorSet(SET.images, LABELS, SET.class_names), shift=())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"batch_size": 2.5}, "batch_size must be a whole number, 1 or more, got 2.5"),
        ({"batch_size": "8"}, "batch_size must be a whole number, 1 or more, got '8'"),
        ({"limit": 0}, "limit must be 1 or more, got 0"),
        ({"risk": "x"}, "risk must be between 0 and 1, got x"),
        ({"severities": 3}, "severities is a list of 1 to 5, got 3"),
        ({"scores": ["msp"]}, r"scores are a list of scores such as \[kedge.scores.MSP\(\)\], got \['msp'\]"),
        ({"attacks": "pgd"}, "attacks are kedge.evaluation.Attacks of named attacks, got 'pgd'"),
        ({"frost_textures": "nowhere"}, "there is no folder nowhere"),
    ],
)
def test_settings_of_an_evaluation(model, settings, words):
    with pytest.raises((TypeError, ValueError), match=words):
        evaluation.evaluate(model, SET, **{"shift": (), **settings})


def test_networks_and_objectives():
    for make in (kedge.anchor, kedge.plain):
        with pytest.raises(TypeError, match=r"takes a network \(torch.nn.Module\), got the text 'resnet18'"):
            make("resnet18")
    with pytest.raises(
        TypeError, match=r"Anchored takes an objective, got the class CrossEntropy: CrossEntropy\(\) makes one"
    ):
        objectives.Anchored(objectives.CrossEntropy)
    with pytest.raises(TypeError, match="start is a model of kedge, got str"):
        fit({"epochs": 1}, start="runs/mine")
    with pytest.raises(TypeError, match="data is named by a text or a path, got int"):
        data.load(3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"width": 2.5}, "network argument width is a whole number, not 2.5"),
        ({"num_classes": 3}, "network argument num_classes is 4, as the images are, not 3"),
        ({"in_chans": 1}, "network argument in_chans is 3, as the images are, not 1"),
    ],
)
def test_arguments_of_a_network(arguments, words):
    with pytest.raises(ValueError, match=words):
        networks.create("kedge_resnet_small", 4, 3, 8, arguments=arguments)


def test_devices(monkeypatch):
    assert devices_here()[-1] == "cpu"
    assert chosen_device("cpu") == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert chosen_device("auto", ("cuda", "mps")) == "cpu"
    for name, words in (
        ("cuda", "device cuda is not available here; there is cpu"),
        ("cuda:1", "device cuda:1 is not available here; there is cpu"),
        ("cpuu", r"there is no device 'cpuu'; there is auto, cpu; did you mean cpu\?"),
        ("cuda:x", "there is no device 'cuda:x'"),
        ("", "there is no device ''"),
    ):
        with pytest.raises(ValueError, match=words):
            chosen_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert chosen_device("auto") == "cuda"
    assert chosen_device("cuda:1") == "cuda:1"
    with pytest.raises(ValueError, match="device cuda:2 is not available here; there is cuda:0 to cuda:1"):
        chosen_device("cuda:2")
