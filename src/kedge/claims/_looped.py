"""Claims in a loop of their own: a small network without batch norm, images as tensors, plain steps with a pull."""

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kedge.data import ImageSet
from kedge.objectives import CrossEntropy, PullTowards
from kedge.seeds import generator

__all__ = ["Labelled", "accuracy", "network", "pixels", "trained"]

Labelled = tuple[Tensor, Tensor]
BATCH, CLIP = 32, 10.0


def pixels(images: ImageSet) -> Labelled:
    """All images of a set in [0, 1] `[N, C, H, W]`, and their labels `[N]`."""
    ((loaded, labels),) = images.batches(len(images))
    return loaded.float() / 255, labels


def network(seed: int, side: int, classes: int = 10) -> nn.Module:
    """Two convolutions of 16 and 32 channels and a linear layer, for grey images of so many pixels a side."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        rest = side // 2 // 2
        model = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Flatten(), nn.Linear(32 * rest * rest, classes),
        )  # fmt: skip
    return model


def trained(
    start: nn.Module,
    data: Labelled,
    epochs: int,
    lr: float,
    seed: int,
    pull: dict[str, Any] | None = None,
    ascent: float = 0.0,
) -> nn.Module:
    """A copy of a model after epochs of SGD without momentum on cross-entropy, and on a pull towards where it starts.

    Args:
        start: the model.
        data: images and labels.
        epochs, lr, seed: of the steps; the seed draws their order.
        pull: settings of `PullTowards`; None: none.
        ascent: ρ: the gradient of the loss, not of the pull, is taken at w + ρ g / ‖g‖; 0: at w.
    """
    images, labels = data
    model, loss = copy.deepcopy(start), CrossEntropy()
    weights = list(model.parameters())
    held = None if pull is None else PullTowards(loss, start, **pull)
    if held is not None:
        held.prepare(model)
    draws = generator(seed, "order")

    def slope(value: Tensor) -> Tensor:
        return parameters_to_vector(torch.autograd.grad(value, weights, allow_unused=False))

    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=draws).split(BATCH):
            at = parameters_to_vector(weights).detach()
            step = slope(loss(model, images[rows], labels[rows]))
            if ascent:
                vector_to_parameters(at + ascent * step / step.norm().clamp(min=1e-12), weights)
                step = slope(loss(model, images[rows], labels[rows]))
                vector_to_parameters(at, weights)
            if held is not None:
                step = step + slope(held.pull(model))
            step = step * (CLIP / step.norm().clamp(min=CLIP))
            vector_to_parameters(at - lr * step, weights)
    return model


@torch.no_grad()
def accuracy(model: nn.Module, data: Labelled) -> float:
    """In percent."""
    return 100 * float((model(data[0]).argmax(1) == data[1]).double().mean())
