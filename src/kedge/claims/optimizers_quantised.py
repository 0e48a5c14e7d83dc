"""How much a network loses in few bits is not told by outliers among its weights, and by its answers it is."""

import copy
from functools import cache
from typing import Any, NamedTuple

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._quantised import layer_of, layers_of, rounded, widest
from kedge.data import ImageSet
from kedge.metrics import prediction_difference
from kedge.seeds import derive_seed, generator

info = Info(
    "Beyond Outliers: A Study of Optimizers Under Quantization", "Vlassis et al.", "ICLR", 2026,
    "https://arxiv.org/abs/2509.23500", "abstract",
)  # fmt: skip

SIDE, TRAIN, UNLABELLED, JUDGED, BATCH, STEPS = 14, 4000, 256, 3000, 64, 500
RATES = (0.3, 1.0, 3.0)  # times the optimizer's own
OPTIMIZERS: dict[str, Any] = {
    "SGD": lambda weights, times: torch.optim.SGD(weights, lr=0.05 * times, momentum=0.9),
    "Adam": lambda weights, times: torch.optim.Adam(weights, lr=0.002 * times),
    "AdamW": lambda weights, times: torch.optim.AdamW(weights, lr=0.002 * times, weight_decay=0.05),
}
BITS = (8, 6, 4, 3)
RATIO, TAILS, DIFFERENCE = "by max / mean", "by kurtosis", "by the prediction difference"


class OptimizersQuantised(Claim):
    """Fashion-MNIST of 14 px; three convolutions with BatchNorm, by three optimizers at three learning rates each.

    Weights alone are rounded, over the whole range of each channel, without calibration. Of an optimizer: means over
    its three networks. What foretells: Spearman's rank correlation, over the nine networks of a seed, of the accuracy
    lost at 3 bits with a statistic of the weights (mean over channels of the largest over the mean size; of the
    kurtosis), or with the prediction difference on 256 images without labels.
    """

    part = "measuring"
    data = ("fashion_mnist",)
    seeds = 5
    variants = (*OPTIMIZERS, RATIO, TAILS, DIFFERENCE)
    criteria = (
        Criterion("8 bits are free after SGD", "accuracy lost, 8 bits", "SGD", None, "near", 0.5),
        Criterion("and after Adam", "accuracy lost, 8 bits", "Adam", None, "near", 0.5),
        Criterion("and after AdamW", "accuracy lost, 8 bits", "AdamW", None, "near", 0.5),
        Criterion("3 bits are not", "accuracy lost, 3 bits", "SGD", None, "above", 1),
        Criterion("max / mean does not foretell the loss", "rank correlation", RATIO, None, "below", 0.3),
        Criterion("nor does kurtosis", "rank correlation", TAILS, None, "below", 0.3),
        Criterion("the prediction difference does", "rank correlation", DIFFERENCE, None, "above", 0.5),
        Criterion("and better than max / mean", "rank correlation", DIFFERENCE, RATIO, "above", 0.3),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy in float and points lost by bits, in %; or the rank correlation with what is lost at 3 bits."""
        networks = _measured(seed)
        if variant in OPTIMIZERS:
            own = [each.measures for each in networks if each.optimizer == variant]
            return {name: sum(each[name] for each in own) / len(own) for name in own[0]}
        foretold = {RATIO: "max / mean", TAILS: "kurtosis", DIFFERENCE: "prediction difference"}[variant]
        lost = [each.measures["accuracy lost, 3 bits"] for each in networks]
        return {"rank correlation": float(spearmanr([each.measures[foretold] for each in networks], lost).statistic)}


class Network(NamedTuple):
    """What was measured of one network."""

    optimizer: str
    measures: dict[str, float]


def in_bits(network: nn.Module, bits: int) -> nn.Module:
    """A copy whose weights are rounded to even steps over the whole range of each channel."""
    made = copy.deepcopy(network)
    with torch.no_grad():
        for name in layers_of(network):
            weight: Tensor = layer_of(made, name).weight
            weight.copy_(rounded(weight, widest(weight), bits))
    return made


def outliers(network: nn.Module) -> tuple[float, float]:
    """Means over all output channels of the largest weight over the mean size, and of the kurtosis (normal: 3)."""
    ratios, tails = [], []
    for name in layers_of(network):
        rows = layer_of(network, name).weight.detach().double().flatten(1)
        ratios.append(rows.abs().amax(1) / rows.abs().mean(1))
        centred = rows - rows.mean(1, keepdim=True)
        tails.append(centred.pow(4).mean(1) / centred.square().mean(1).square())
    return float(torch.cat(ratios).mean()), float(torch.cat(tails).mean())


@cache
def _measured(seed: int) -> list[Network]:
    """Nine networks, three of each optimizer."""
    pixels, labels = _pixels("train", TRAIN, seed)
    held, truth = _pixels("test", JUDGED + UNLABELLED, seed)
    unlabelled, judged, truth = held[JUDGED:], held[:JUDGED], truth[:JUDGED]
    networks = []
    for optimizer in OPTIMIZERS:
        for times in RATES:
            network = _trained(optimizer, times, pixels, labels, seed)
            ratio, tails = outliers(network)
            with torch.no_grad():
                small = {bits: in_bits(network, bits) for bits in BITS}
                accuracy = _accuracy(network, judged, truth)
                measures = {"accuracy": accuracy}
                measures |= {f"accuracy lost, {b} bits": accuracy - _accuracy(each, judged, truth)
                             for b, each in small.items()}  # fmt: skip
                difference = float(prediction_difference(network(unlabelled), small[3](unlabelled)))
            measures |= {"max / mean": ratio, "kurtosis": tails, "prediction difference": difference}
            networks.append(Network(optimizer, measures))
    return networks


def _accuracy(network: nn.Module, pixels: Tensor, labels: Tensor) -> float:
    return 100 * float((network(pixels).argmax(1) == labels).double().mean())


@cache  # a set is decoded whole
def _whole(split: str) -> ImageSet:
    return packed("fashion_mnist", split, SIDE)


def _pixels(split: str, count: int, seed: int) -> tuple[Tensor, Tensor]:
    images = cut(_whole(split), count, seed)
    ((pixels, labels),) = images.batches(count)
    return (pixels / 255 - 0.29) / 0.35, labels


def _trained(optimizer: str, times: float, pixels: Tensor, labels: Tensor, seed: int) -> nn.Module:
    """The small network in float; all networks of a seed share first weights and order."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        network = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16),
            nn.ReLU(), nn.Conv2d(16, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(64, 10),
        )  # fmt: skip
    steps, draws = OPTIMIZERS[optimizer](network.parameters(), times), generator(seed, "order")
    for _ in range(STEPS):
        batch = torch.randint(len(pixels), (BATCH,), generator=draws)
        steps.zero_grad()
        nn.functional.cross_entropy(network(pixels[batch]), labels[batch]).backward()
        steps.step()
    return network.eval()
