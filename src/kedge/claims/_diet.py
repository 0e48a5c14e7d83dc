"""What the claims about chosen images share: clothes, some with wrong labels, and a small network trained by hand."""

import time
from functools import cache

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel, plain
from kedge.claims._images import cut, packed
from kedge.data import ImageSet, with_label_noise
from kedge.objectives import CrossEntropy
from kedge.seeds import derive_seed, generator

__all__ = ["EPOCHS", "RUNS", "clothes", "early", "trained"]

COUNT, TEST, SIDE, BATCH = 2000, 3000, 14, 32
EPOCHS, RUNS = 8, 2  # of the models that score images


@cache
def _packed(split: str) -> ImageSet:
    return packed("fashion_mnist", split, SIDE)


def clothes(seed: int, wrong: float) -> tuple[ImageSet, Tensor, ImageSet]:
    """2,000 training images, a share of them with a wrong label; which these are, bool `[N]`; 3,000 test images."""
    clean = cut(_packed("train"), COUNT, seed)
    train = with_label_noise(clean, wrong, seed)
    return train, train.labels != clean.labels, _packed("test").subset(range(TEST))


@cache
def early(seed: int, wrong: float, epochs: int) -> tuple[PixelModel, ...]:
    """Models that score the training images of a seed, after some epochs on all of them."""
    train, _, _ = clothes(seed, wrong)
    steps = epochs * -(-len(train) // BATCH)
    return tuple(trained(train, derive_seed(seed, "early", run), steps)[0] for run in range(RUNS))


def trained(train: ImageSet, seed: int, steps: int) -> tuple[PixelModel, float]:
    """An MLP 196-256-10 after so many steps of SGD with momentum, and the seconds of a step."""
    images, labels = torch.stack([train[i][0] for i in range(len(train))]) / 255, train.labels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        layers = nn.Linear(SIDE * SIDE, 256), nn.Linear(256, 10)
    network = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1])
    mean, std = float(images.mean()), float(images.std())
    model = plain(network, mean=mean, std=std, example=tuple(images.shape[1:])).train()
    objective, draws = CrossEntropy(), generator(seed, "order")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9)
    began, order = time.process_time(), torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(len(labels), generator=draws)
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        objective(model, images[batch], labels[batch]).backward()
        optimizer.step()
    return model.eval(), (time.process_time() - began) / max(1, steps)
