"""Eight bits are free; at two, what layers are fitted to decides, and batch statistics taken anew give most of it."""

import time
from functools import cache

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._quantised import (
    adaquant,
    allocated,
    anew,
    by_difference,
    layers_of,
    quantised,
    random_allocations,
)
from kedge.seeds import derive_seed, generator

info = Info(
    "Accurate Post Training Quantization With Small Calibration Sets", "Hubara et al.", "ICML", 2021,
    "https://arxiv.org/abs/2006.10518", "code",
)  # fmt: skip
SIDE, TRAIN, CALIBRATED, JUDGED, BATCH, STEPS = 14, 4000, 256, 3000, 64, 500
MEAN_BITS, RANDOM = 3.0, 8
CONTROL, FLOAT = "2 bits, least error", "float"


class FewBits(Claim):
    """Fashion-MNIST of 14 px; three convolutions with BatchNorm; weights alone are rounded, a range for each channel.

    256 training images without labels are calibrated on. The prediction difference that chooses ranges and bits is that
    of PD-Quant (Liu et al., CVPR 2023). Bits by layer are 2, 4 or 8, three on average; their control is the mean of
    eight random allocations that are full; both with batch statistics taken anew.
    """

    part = "measuring"
    data = ("fashion_mnist",)
    variants = (
        CONTROL, FLOAT, "8 bits", "2 bits, BatchNorm anew", "2 bits, AdaQuant", "2 bits, least prediction difference",
        "3 bits allocated", "3 bits at random",
    )  # fmt: skip
    criteria = (
        Criterion("8 bits are free", "accuracy", "8 bits", FLOAT, "near", 0.5),
        Criterion("AdaQuant gives back", "accuracy", "2 bits, AdaQuant", CONTROL, "above", 10),
        Criterion("so does BatchNorm anew", "accuracy", "2 bits, BatchNorm anew", CONTROL, "above", 10),
        Criterion(
            "the prediction difference chooses better ranges", "accuracy", "2 bits, least prediction difference",
            CONTROL, "above", 0,
        ),
        Criterion("allocated bits above random ones", "accuracy", "3 bits allocated", "3 bits at random", "above", 0),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Round the weights of the network of this seed in one way, and judge it."""
        network, images = _trained(seed)
        began = time.process_time()
        made = [network] if variant == FLOAT else _rounded(variant, network, images[:CALIBRATED], seed)
        seconds = time.process_time() - began
        pixels, labels = _pixels("test", JUDGED, seed)
        with torch.no_grad():
            right = [float((each(pixels).argmax(1) == labels).double().mean()) for each in made]
        return {"accuracy": 100 * sum(right) / len(right), "seconds a step": seconds}


def _rounded(variant: str, network: nn.Module, images: Tensor, seed: int) -> list[nn.Module]:
    """The network in few bits, or several of which the mean counts."""
    same = quantised(network, [8 if variant == "8 bits" else 2] * len(layers_of(network)))
    if variant in (CONTROL, "8 bits"):
        return [same]
    if variant == "2 bits, BatchNorm anew":
        return [anew(same, images)]
    if variant == "2 bits, AdaQuant":
        return [adaquant(network, 2, images)]
    if variant == "2 bits, least prediction difference":
        return [by_difference(network, 2, images)]
    if variant == "3 bits allocated":
        return [anew(quantised(network, allocated(network, MEAN_BITS, images)), images)]
    drawn = random_allocations(network, MEAN_BITS, RANDOM, generator(seed, "allocations"))
    return [anew(quantised(network, bits), images) for bits in drawn]


def _pixels(split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    images = cut(packed("fashion_mnist", split, SIDE), count, seed)
    ((pixels, labels),) = images.batches(count)
    return (pixels / 255 - 0.29) / 0.35, labels


@cache
def _trained(seed: int) -> tuple[nn.Module, Tensor]:
    """The network in float, and the images that it was trained on."""
    pixels, labels = _pixels("train", TRAIN, seed)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
    optimizer, draws = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9), generator(seed, "order")
    for _ in range(STEPS):
        batch = torch.randint(len(pixels), (BATCH,), generator=draws)
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        optimizer.step()
    return network.eval(), pixels
