"""What is said to foretell generalisation changes its sign with what is varied: margins, norms, sharpness, size."""

import itertools
import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.data import ImageSet, with_label_noise
from kedge.seeds import derive_seed, generator

info = Info(
    "Fantastic Generalization Measures are Nowhere to be Found", "Gastpar et al.", "ICLR", 2024,
    "https://arxiv.org/abs/2309.13658", "abstract",
)  # fmt: skip

COUNT, TEST, EPOCHS, BATCH = 400, 700, 60, 32
NAMES = ("less margin", "Frobenius norm", "spectral norms", "sharpness", "parameters")


class Setting(NamedTuple):
    """How a network is trained: rate, weight decay, hidden units, share of wrong labels."""

    rate: float = 0.05
    decay: float = 0.0
    width: int = 64
    wrong: float = 0.0


REGIMES = {
    "rate, decay and width": [
        Setting(*each) for each in itertools.product((0.01, 0.03, 0.1, 0.2), (0.0, 0.002), (24, 128))
    ],
    "wrong labels": [Setting(wrong=step / 25) for step in range(16)],
    "width": [Setting(width=round(8 * 64 ** (step / 15))) for step in range(16)],
}


class GeneralizationMeasures(Claim):
    """16 MLPs on 400 digits in each of three regimes: what is varied is the training, the labels, or the width.

    τ is Kendall's, between a measure and the gap of training and test accuracy, over the networks of a regime; with
    wrong labels as many of the test labels are wrong, else the gap would be negative. Measures: the mean margin of the
    training logits, with a minus; the sum of the squared weights; the sum of the log spectral norms; how much the
    training loss rises when each weight is changed by about 10 % at random; the number of parameters, which has no τ
    where it is the same. A measure with both signs foretells nothing of a new situation. The control are random
    numbers, which have both signs three times in four: passing says that the measures are no safer than those, not
    that each of them turns round for a reason. Which of them does, the τ of the seeds show.
    """

    part = "measuring"
    variants = ("random numbers", "three regimes")
    criteria = (
        Criterion("at least three of five measures have both signs", "measures with both signs", "three regimes", None,
                  "above", 3),
    )  # fmt: skip
    seeds = 5

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """How many measures have both signs, the least τ of the best measure, and τ of each in each regime."""
        of_regime = _random(seed) if variant == "random numbers" else _measured(seed)
        taus = {name: [each[name] for each in of_regime.values()] for name in NAMES}
        return {
            "measures with both signs": float(sum(min(each) < 0 < max(each) for each in taus.values())),
            "least τ of the best measure": max(min(each) for each in taus.values()),
            **{f"τ of {name}, {regime}": each[name] for name in NAMES for regime, each in of_regime.items()},
        }


def _measured(seed: int) -> dict[str, dict[str, float]]:
    """Regime to measure to τ."""
    return {regime: _taus([_trained(each, seed, i) for i, each in enumerate(rows)]) for regime, rows in REGIMES.items()}


def _random(seed: int) -> dict[str, dict[str, float]]:
    """The same of numbers that know nothing of the gaps, which are as random."""
    draws = generator(seed, "random numbers")
    return {
        regime: _taus([(torch.rand(len(NAMES), generator=draws).tolist(), float(gap)) for gap in gaps])
        for regime, gaps in ((regime, torch.rand(len(rows), generator=draws)) for regime, rows in REGIMES.items())
    }


def _taus(rows: list[tuple[list[float], float]]) -> dict[str, float]:
    gaps = [gap for _, gap in rows]
    return {name: kendall([measures[i] for measures, _ in rows], gaps) for i, name in enumerate(NAMES)}


def kendall(first: list[float], second: list[float]) -> float:
    """Kendall's τ-b of two lists; 0 where one is constant."""
    one, other = (torch.tensor(each, dtype=torch.float64) for each in (first, second))
    signs = [(each[:, None] - each).sign() for each in (one, other)]
    untied = [float(each.abs().sum()) for each in signs]
    return float((signs[0] * signs[1]).sum()) / math.sqrt(untied[0] * untied[1]) if all(untied) else 0.0


@cache
def _digits(seed: int) -> tuple[ImageSet, ImageSet]:
    drawn = cut(packed("digits", "train"), COUNT + TEST, seed)
    return drawn.subset(range(COUNT)), drawn.subset(range(COUNT, len(drawn)))


def _pixels(images: ImageSet) -> Tensor:
    return torch.stack([images[i][0] for i in range(len(images))]).flatten(1) / 127.5 - 1


def _trained(setting: Setting, seed: int, number: int) -> tuple[list[float], float]:
    """The measures of a trained network, and its gap in accuracy."""
    train, test = (
        with_label_noise(each, setting.wrong, seed, part=part)
        for each, part in zip(_digits(seed), ("train", "test"), strict=True)
    )
    images, others, labels = _pixels(train), _pixels(test), train.labels
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights", number))
        network = nn.Sequential(nn.Linear(64, setting.width), nn.ReLU(), nn.Linear(setting.width, 10))
    draws = generator(seed, "order", number)
    optimizer = torch.optim.SGD(network.parameters(), lr=setting.rate, momentum=0.9, weight_decay=setting.decay)
    for _ in range(EPOCHS):
        for batch in torch.randperm(COUNT, generator=draws).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), labels[batch]).backward()
            optimizer.step()
    with torch.no_grad():
        logits = network(images)
        own = logits.gather(1, labels[:, None])[:, 0]
        best = logits.scatter(1, labels[:, None], -math.inf).amax(1)
        right = [
            float((network(x).argmax(1) == y).double().mean()) for x, y in ((images, labels), (others, test.labels))
        ]
        weights = [p for p in network.parameters() if p.ndim == 2]
        before = float(nn.functional.cross_entropy(logits, labels))
        measures = [
            -float((own - best).mean()),
            sum(float(p.square().sum()) for p in weights),
            sum(math.log(float(torch.linalg.matrix_norm(p, 2))) for p in weights),
        ]
        for p in network.parameters():
            p.mul_(1 + 0.1 * torch.randn(p.shape, generator=draws))
        measures.append(float(nn.functional.cross_entropy(network(images), labels)) - before)
        measures.append(float(sum(p.numel() for p in network.parameters())))
    return measures, right[0] - right[1]
