"""A pull towards the pretrained weights, by how much each matters, helps with few labels, and forgets less."""

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2.functional import rotate

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._looped import Labelled, accuracy, network, pixels, trained
from kedge.data import ImageSet
from kedge.seeds import generator

info = Info(
    "Learning Expressive Priors for Generalization and Uncertainty Estimation in Neural Networks", "Schnaus et al.",
    "ICML", 2023, "https://arxiv.org/abs/2307.07753", "abstract",
)  # fmt: skip

SIDE, ANGLE = 14, 50.0
SOURCE, FEW, VAL, TEST = 3000, 50, 200, 2000
STRENGTHS = (0.001, 0.01, 0.1, 1.0)
HELD = 0.1


class PullTowards(Claim):
    """MNIST at 14 px: a network of 3,000 upright images goes on with 50 that are rotated by 50 degrees.

    Variants: from new weights; going on freely; with a pull (L2-SP), and with one by the Fisher information of 500
    upright images, the strength that is best on 200 rotated validation images of 0.001, 0.01, 0.1 and 1; and both held
    at 0.1. "old accuracy" is that on upright test images, 2,000 of each kind. No weight decay.
    """

    methods = ("objectives.pull_towards",)
    variants = ("free", "new weights", "L2-SP", "Fisher", "L2-SP at 0.1", "Fisher at 0.1")
    criteria = (
        Criterion("the prior helps with few labels", "accuracy", "Fisher", "free"),
        Criterion("its shape helps", "accuracy", "Fisher", "L2-SP"),
        Criterion("a pull forgets less", "old accuracy", "L2-SP at 0.1", "free", "above", 1),
        Criterion("by importance still less", "old accuracy", "Fisher at 0.1", "L2-SP at 0.1"),
    )
    data = ("mnist",)
    seeds = 5

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies and NLL on rotated test images, accuracy on upright ones, and the strength."""
        _, val, test, old = _images(seed)
        if "at" in variant.split():
            strength = HELD
        elif variant in ("L2-SP", "Fisher"):
            strength = max(STRENGTHS, key=lambda each: accuracy(_tuned(variant, seed, each), val))
        else:
            strength = 0.0
        model = _tuned(variant.partition(" at")[0], seed, strength)
        with torch.no_grad():
            nll = float(F.cross_entropy(model(test[0]), test[1]))
        measures = {"accuracy": accuracy(model, test), "NLL": nll, "old accuracy": accuracy(model, old)}
        return {**measures, "strength": strength}


@cache
def _tuned(variant: str, seed: int, strength: float) -> nn.Module:
    """Thirty epochs on the few images at the rate of the pretraining."""
    start = network(seed + 1000, SIDE) if variant == "new weights" else _source(seed)
    pull: dict[str, Any] | None = {"strength": strength} if strength else None
    if pull is not None and variant == "Fisher":
        images, labels = pixels(_upright(seed).subset(range(500)))
        pull |= {"importance": "fisher", "source": list(zip(images, labels.tolist(), strict=True)), "seed": seed}
    return trained(start, _images(seed)[0], 30, 0.1, seed, pull)


@cache
def _source(seed: int) -> nn.Module:
    return trained(network(seed, SIDE), pixels(_upright(seed)), 8, 0.1, seed)


@cache
def _upright(seed: int) -> ImageSet:
    return cut(_whole("train"), SOURCE, seed)


@cache
def _whole(split: str) -> ImageSet:
    return packed("mnist", split, SIDE)


@cache
def _images(seed: int) -> tuple[Labelled, Labelled, Labelled, Labelled]:
    """The few images, as many of each class; those to validate by; test images; and these upright."""
    others = cut(_whole("train"), SOURCE + 4000, seed).subset(range(SOURCE, SOURCE + 4000))  # none of the upright ones
    order = torch.randperm(len(others), generator=generator(seed, "few"))
    chosen = [order[others.labels[order] == label][: FEW // 10] for label in range(10)]
    few = torch.cat(chosen)
    rest = order[~torch.isin(order, few)][:VAL]
    upright = pixels(cut(_whole("test"), TEST, seed))
    turned = [_rotated(pixels(each)) for each in (others.subset(few), others.subset(rest))]
    return turned[0], turned[1], _rotated(upright), upright


def _rotated(data: Labelled) -> Labelled:
    return rotate(data[0], ANGLE, InterpolationMode.BILINEAR), data[1]
