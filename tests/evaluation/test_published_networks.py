"""Networks that somebody else trained and published, with the accuracy that they published."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import kedge
from kedge import data, metrics, networks
from kedge.evaluation import evaluate

ROOM = Path(os.environ.get("KEDGE_DATA", "nowhere"))
WEIGHTS = ROOM.parent / "weights"
# akamaster/pytorch_resnet_cifar10: test accuracy in its README.
PUBLISHED = {"cifar10_resnet20": 0.9173, "cifar10_resnet56": 0.9339}

pytestmark = pytest.mark.skipif(
    not (WEIGHTS.is_dir() and (ROOM / "cifar10").is_dir()),
    reason="needs cifar10 in $KEDGE_DATA and ../weights beside it",
)


def published(name: str):
    network = networks.create(name.replace("cifar10", "kedge"), 10)
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    # The normalisation of their trainer, which is that of ImageNet.
    settings = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "example": (3, 32, 32)}
    return kedge.plain(network.eval(), **settings).to(memory_format=torch.channels_last)


@pytest.mark.slow
def test_the_published_accuracy_on_the_whole_test_set():
    name, figure = "cifar10_resnet20", PUBLISHED["cifar10_resnet20"]
    images = data.load("cifar10", "test")
    results = evaluate({name: published(name)}, images, shift=(), resamples=0, examples=0)
    clean = results["models"][name]["clean"]
    assert len(images) == 10_000
    assert clean["accuracy"]["value"] == pytest.approx(figure, abs=5e-5)  # as printed, to two places of a percentage
    assert clean["accuracy"]["low"] < figure < clean["accuracy"]["high"]


@pytest.mark.slow
def test_the_published_accuracy_of_a_deeper_one_within_the_interval_of_a_thousand_images():
    name, figure = "cifar10_resnet56", PUBLISHED["cifar10_resnet56"]
    images = data.load("cifar10", "test").subset(range(0, 10_000, 10))
    model = published(name)
    clean = evaluate({name: model}, images, shift=(), resamples=0, examples=0)["models"][name]["clean"]
    low, high = metrics.exact_interval(round(clean["accuracy"]["value"] * 1000), 1000, level=0.99)
    assert low < figure < high
    # Just anchored it is the same function, for every reference, and folded again too.
    few = images.images[:50] / 255
    anchored = kedge.anchor(model)
    anchored.references = images.images[50:53] / 255
    expected = model.predict(few).logits
    with torch.no_grad():
        folded = anchored.fold()(few)
    for logits in (anchored.predict(few).logits, folded):
        torch.testing.assert_close(logits, expected, atol=2e-3, rtol=0)
