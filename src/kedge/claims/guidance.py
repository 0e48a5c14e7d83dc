"""A fully connected network that overfits is better where a convolutional one guides its layers, even untrained."""

import time
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.claims import Claim, Criterion
from kedge.claims._images import cut, packed
from kedge.objectives import CrossEntropy, Objective, set_progress
from kedge.objectives.guidance import Guidance as Guided
from kedge.objectives.guidance import info as info
from kedge.seeds import derive_seed, generator

SIDE, WIDTH = 14, 128
TRAIN, OTHERS, TEST = 500, 3000, 3000
BATCH = 64
HOW: dict[str, dict[str, Any]] = {
    "trained guide": {},
    "trained guide, plain CKA": {"debiased": False},
    "trained guide, first tenth": {"until": 0.1},
    "untrained guide": {"trained": False},
    "unrelated targets": {},
}


class Guidance(Claim):
    """Fashion-MNIST at 14 px, 500 images, four layers of 128; the guide is a CNN, trained on 3,000 other images.

    The control beside no guide is one whose layers put out noise, the same for an image each time.
    """

    methods = ("objectives.guidance",)
    variants = ("no guide", *HOW)
    seeds = 5
    criteria = (
        Criterion("the network overfits without", "train-test gap", "no guide", None, "above", 15),
        Criterion("a trained guide helps", "accuracy", "trained guide", "no guide", "above", 1),
        Criterion("by what it sees", "accuracy", "trained guide", "unrelated targets", "above", 1),
        Criterion("an untrained guide helps", "accuracy", "untrained guide", "no guide", "above", 1),
        Criterion("guiding the start suffices", "accuracy", "trained guide, first tenth", "no guide", "above", 1),
        Criterion("less overfitting", "train-test gap", "trained guide", "no guide", "below", 1),
    )
    data = ("fashion_mnist",)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """40 epochs, judged on 3,000 test images; the cost is the time of this process for a step."""
        images, labels = (each[:TRAIN] for each in _drawn(seed))
        objective: Objective = CrossEntropy()
        if variant in HOW:
            guide = unrelated(seed) if variant == "unrelated targets" else trained_guide(seed)
            objective = Guided(objective, guide, seed=seed, **HOW[variant])
        network = _fresh(seed, "network", *_fully_connected())
        seconds = trained(network, objective, images, labels, 40, seed)
        test_images, test_labels = _test()
        with torch.no_grad():
            logits = network(test_images)
            own = 100 * float((network(images).argmax(1) == labels).double().mean())
        accuracy = 100 * float((logits.argmax(1) == test_labels).double().mean())
        return {
            "accuracy": accuracy,
            "NLL": float(F.cross_entropy(logits, test_labels)),
            "train-test gap": own - accuracy,
            "seconds a step": seconds,
        }


def trained(network: nn.Module, objective: Objective, images: Tensor, labels: Tensor, epochs: int, seed: int) -> float:
    """Train with Adam and leave the network in eval mode; the seconds of a step."""
    draws, optimizer = generator(seed, "order"), torch.optim.Adam(network.parameters(), 1e-3)
    objective.prepare(network)
    batches = [rows for _ in range(epochs) for rows in torch.randperm(len(labels), generator=draws).split(BATCH)]
    began = time.process_time()
    for step, rows in enumerate(batches):
        set_progress(objective, step / len(batches))
        optimizer.zero_grad()
        objective(network, images[rows], labels[rows]).backward()
        optimizer.step()
    network.eval()
    return (time.process_time() - began) / len(batches)


@cache
def trained_guide(seed: int) -> nn.Module:
    """Three convolutions, trained on the other images."""
    images, labels = (each[TRAIN:] for each in _drawn(seed))
    layers: list[nn.Module] = []
    for wide, (inputs, outputs) in enumerate(((1, 16), (16, 32), (32, 32))):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
        layers += [nn.MaxPool2d(2)] if wide < 2 else [nn.AdaptiveAvgPool2d(1)]
    guide = _fresh(seed, "guide", *layers, nn.Flatten(), nn.Linear(32, 10))
    trained(guide.train(), CrossEntropy(), images, labels, 10, seed)
    return guide


def unrelated(seed: int) -> nn.Module:
    """Layers that put out noise, which differs between images however alike they are."""
    layers = [nn.Linear(WIDTH, WIDTH) for _ in range(6)]
    return _fresh(seed, "unrelated", _Scrambled(generator(seed, "scrambled")), *layers)


class _Scrambled(nn.Module):
    directions: Tensor

    def __init__(self, draws: torch.Generator) -> None:
        super().__init__()
        self.register_buffer("directions", 1000 * torch.randn(SIDE * SIDE, WIDTH, generator=draws))

    def forward(self, images: Tensor) -> Tensor:
        return torch.cos(images.flatten(1) @ self.directions)


def _fully_connected() -> list[nn.Module]:
    sizes = (SIDE * SIDE, WIDTH, WIDTH, WIDTH)
    hidden = [each for inputs in sizes for each in (nn.Linear(inputs, WIDTH), nn.ReLU())]
    return [nn.Flatten(), *hidden, nn.Linear(WIDTH, 10)]


def _fresh(seed: int, what: str, *layers: nn.Module) -> nn.Sequential:
    """A network of these layers, its weights drawn by the seed, that says what images it takes."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, what))
        for layer in layers:
            if callable(draw := getattr(layer, "reset_parameters", None)):
                draw()
    network = nn.Sequential(*layers)
    network.input_shape = (1, SIDE, SIDE)  # type: ignore[assignment]
    return network


@cache
def _drawn(seed: int) -> tuple[Tensor, Tensor]:
    """3,500 training images of the seed: those of the network first, then those of the guide."""
    ((images, labels),) = cut(packed("fashion_mnist", "train", SIDE), TRAIN + OTHERS, seed).batches(TRAIN + OTHERS)
    return images.float() / 255, labels


@cache
def _test() -> tuple[Tensor, Tensor]:
    ((images, labels),) = packed("fashion_mnist", "test", SIDE).subset(range(TEST)).batches(TEST)
    return images.float() / 255, labels
