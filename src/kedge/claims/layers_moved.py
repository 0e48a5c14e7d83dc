"""Fine-tuning on another task moves the last layers most and leaves the first as they were; steps alone do not."""

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

import kedge
from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve, cut, packed
from kedge.data import ImageSet
from kedge.evaluation.features import centred_alignment, feature_report, features_of
from kedge.seeds import derive_seed, generator

info = Info(
    "Diagnosing Transformers: Illuminating Feature Spaces for Clinical Decision-Making (SUFO)", "Hsu et al.", "ICLR",
    2024, "https://arxiv.org/abs/2305.17588", "abstract",
)  # fmt: skip

SIDE, TRAIN, PROBED, JUDGED, BATCH, STEPS, MORE, RATE, LOWER = 14, 4000, 800, 800, 64, 500, 500, 0.05, 0.02
LAYERS = ("first", "second", "third")
CONTROL, OTHERS, TUNED, ANEW = "before", "further steps on digits", "fine-tuned on clothes", "clothes from scratch"


class LayersMoved(Claim):
    """MNIST of 14 px, then Fashion-MNIST with a new last layer; three convolutions with BatchNorm, 500 steps of each.

    Layers are looked at by `kedge.evaluation.features.feature_report` on clothes, against the network before: debiased
    CKA, effective rank, and a linear probe of the clothes. Further steps on digits say what steps alone move; a network
    of the same size that begins anew on clothes says what has nothing in common but the task.
    """

    part = "measuring"
    data = ("mnist", "fashion_mnist")
    seeds = 5
    variants = (CONTROL, OTHERS, TUNED, ANEW)
    criteria = (
        Criterion("the last layer moves more than the first", "CKA of the first less that of the last", TUNED, None,
                  "above", 0.1),
        Criterion("by the task, not by steps", "CKA, layer 3", TUNED, OTHERS, "below", 0.05),
        Criterion("and stays nearer to the start than a new network", "CKA, layer 3", TUNED, ANEW, "above", 0.1),
        Criterion("the first layer loses nothing", "probe, layer 1", TUNED, CONTROL, "near", 2),
        Criterion("the last layer tells clothes better", "probe, layer 3", TUNED, CONTROL, "above", 1),
        Criterion("its features become fewer", "effective rank, layer 3", TUNED, CONTROL, "below"),
        Criterion("turned and scaled features are the same to it", "CKA off 1, turned and scaled", CONTROL, None,
                  "below", 1e-6),
    )  # fmt: skip
    curve = Curve("CKA", "layer")

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """CKA with the network before, effective rank and probe accuracy in %, by layer."""
        before = _before(seed)
        train, test = _images("fashion_mnist", "train", TRAIN, seed), _images("fashion_mnist", "test", JUDGED, seed)
        after = before
        if variant == ANEW:
            after = trained(started(seed + 1000), train, STEPS, RATE, seed)
        elif variant != CONTROL:
            images = train if variant == TUNED else _images("mnist", "train", TRAIN, seed)
            after = trained(restarted(before, seed, variant == TUNED), images, MORE, LOWER, seed + 1)
        report = feature_report(before, after, train.subset(range(min(PROBED, len(train)))), test, LAYERS)
        measures: dict[str, float] = {}
        for number, row in enumerate(report["layers"], 1):
            measures |= {
                f"CKA, layer {number}": row["cka"]["value"],
                f"effective rank, layer {number}": row["after"]["effective_rank"],
                f"probe, layer {number}": 100 * row["after"]["probe"]["value"],
            }
        measures["CKA of the first less that of the last"] = measures["CKA, layer 1"] - measures["CKA, layer 3"]
        if variant == CONTROL:
            features = features_of(before, LAYERS[-1:], test)[LAYERS[-1]].double()
            measures["CKA off 1, turned and scaled"] = turned_apart(features, seed)
        return measures


def turned_apart(features: Tensor, seed: int) -> float:
    """How far from 1 the CKA of features `[N, D]` with themselves is, turned by a random rotation and tripled."""
    drawn = torch.randn(
        features.shape[1], features.shape[1], generator=generator(seed, "rotation"), dtype=torch.float64
    )
    rotation = torch.linalg.qr(drawn)[0]
    return abs(1 - centred_alignment(features, 3 * features @ rotation)[0])


def started(seed: int) -> Any:
    """A model with random weights."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        network = nn.Sequential()
        for name, (inputs, width) in zip(LAYERS, ((1, 16), (16, 32), (32, 64)), strict=True):
            block = (nn.Conv2d(inputs, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
            network.add_module(name, nn.Sequential(*block))
        network.add_module("head", nn.Sequential(nn.Flatten(), nn.Linear(256, 10)))
    return kedge.plain(network, mean=(0.29,), std=(0.35,), example=(1, SIDE, SIDE))


def restarted(model: Any, seed: int, new_head: bool) -> Any:
    """A model with the weights of another, and with `new_head` a last layer of random weights."""
    other = started(seed + 2000)
    weights = model.network.state_dict()
    fresh = other.network.state_dict()
    other.network.load_state_dict({k: fresh[k] if new_head and k.startswith("head") else v for k, v in weights.items()})
    return other


def trained(model: Any, images: ImageSet, steps: int, rate: float, seed: int) -> Any:
    """The model after so many steps of SGD with momentum, in eval mode."""
    network = model.network.train()
    ((pixels, labels),) = images.batches(len(images))
    pixels = (pixels / 255 - 0.29) / 0.35
    optimizer, draws = torch.optim.SGD(network.parameters(), lr=rate, momentum=0.9), generator(seed, "order")
    for _ in range(steps):
        batch = torch.randint(len(pixels), (BATCH,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        optimizer.step()
    return model.eval()


@cache  # a set is decoded whole
def _whole(name: str, split: str) -> ImageSet:
    return packed(name, split, SIDE)


def _images(name: str, split: str, count: int, seed: int) -> ImageSet:
    return cut(_whole(name, split), count, seed)


@cache
def _before(seed: int) -> Any:
    """The network that was trained on digits."""
    return trained(started(seed), _images("mnist", "train", TRAIN, seed), STEPS, RATE, seed)
