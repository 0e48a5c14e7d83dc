"""Of images with a shortcut, a small network beside a frozen one learns what holds without it better than either."""

import tempfile
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kedge.adaptation import adapt
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._trained import Judged, judged
from kedge.data import ImageSet, TensorSet
from kedge.metrics import accuracy
from kedge.objectives.levi import info as info
from kedge.seeds import generator
from kedge.training import fit

SIDE, PATCH, TRUE = 14, 2, 0.9
SOURCE, FEW, TEST = 1500, 600, 2000
EPOCHS = 15
TARGETS = tuple("56789")


class Levi(Claim):
    """MNIST at 14 px: a network of the digits 0 to 4 is taken to 600 images of 5 to 9; both have a shortcut.

    A white patch in the first row of the image, of the source, or in the last one, of the new task, stands at the place
    of the class in 90 % of the images and anywhere in the others. Judged without a patch, and with one as in training.
    The small network, alone and beside the frozen one, learns for 15 epochs at the same rate, and fine-tuning is as
    long.
    """

    methods = ("procedures.levi", "objectives.levi")
    variants = ("probe", "fine-tuning", "small alone", "mean of probe and small", "LEVI")
    criteria = (
        Criterion("better than the frozen part", "accuracy", "LEVI", "probe"),
        Criterion("better than the small part", "accuracy", "LEVI", "small alone"),
        Criterion("better than the mean of both", "accuracy", "LEVI", "mean of probe and small"),
        Criterion("better than fine-tuning", "accuracy", "LEVI", "fine-tuning"),
    )
    data = ("mnist",)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on 2,000 test images without the patch, and with it."""
        _, plain, patched = _target(seed)
        answers = _answers(variant, seed)
        return {
            "accuracy": 100 * float(accuracy(answers(plain), plain.labels)),
            "with the patch": 100 * float(accuracy(answers(patched), patched.labels)),
        }


def _answers(variant: str, seed: int) -> Callable[[ImageSet], Tensor]:
    """What a variant answers to images, probabilities `[N, C]`."""
    if variant == "mean of probe and small":
        probe, small = _model("probe", seed), _model("small alone", seed)
        return lambda images: (_probs(probe, images) + _probs(small, images)) / 2
    model = _model(variant, seed)
    return lambda images: _probs(model, images)


def _probs(model: Any, images: ImageSet) -> Tensor:
    answers: Judged = judged(model, images)
    return answers.probs


@cache
def _model(variant: str, seed: int) -> Any:
    train = _target(seed)[0]
    if variant == "small alone":
        return _trained(train, 16, EPOCHS, 32, seed)
    how = {"probe": "linear-probe", "fine-tuning": "finetune", "LEVI": "levi"}[variant]
    return adapt(_source(seed), train, how=how, seed=seed, epochs=EPOCHS, augment="none", device="cpu").model


@cache
def _source(seed: int) -> Any:
    drawn = cut(packed("mnist", "train", SIDE).only_classes(list("01234")), SOURCE, seed, "source")
    return _trained(_patched(drawn, 0, seed, "source"), 24, 6, 64, seed + 1000)


def _trained(train: ImageSet, width: int, epochs: int, batch: int, seed: int) -> Any:
    recipe = {
        "name": "network",
        "model": "kedge_resnet_small",
        "arguments": {"width": width},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "augment": "none",
        "epochs": epochs,
        "batch_size": batch,
        "optimizer": "sgd",
        "keep": "last",
        "seed": seed,
        "device": "cpu",
        "workers": 0,
    }
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return fit({**recipe, "runs": folder}, sets=(train, train), progress=False, report=False).model


@cache
def _target(seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Training images with the patch; test images without and with it."""
    train = cut(packed("mnist", "train", SIDE).only_classes(TARGETS), FEW, seed, "target")
    test = cut(packed("mnist", "test", SIDE).only_classes(TARGETS), TEST, seed, "test")
    row = SIDE - PATCH
    return _patched(train, row, seed, "target"), test, _patched(test, row, seed, "test")


def _patched(images: ImageSet, row: int, seed: int, what: str) -> ImageSet:
    """The images with a white patch from a row on, whose column is that of the class where the shortcut is true."""
    ((pixels, labels),) = images.batches(len(images))
    draws = generator(seed, "patches", what)
    anywhere = torch.randint(len(images.class_names), labels.shape, generator=draws)
    places = torch.where(torch.rand(labels.shape, generator=draws) < TRUE, labels, anywhere)
    pixels = pixels.clone()
    for image, place in enumerate(places.tolist()):
        column = 1 + place * PATCH
        pixels[image, :, row : row + PATCH, column : column + PATCH] = 255
    return TensorSet(pixels, labels, images.class_names, name="patched", split=images.split)
