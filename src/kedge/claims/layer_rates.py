"""With few images, some stages of a pretrained network should learn and others stay: a search finds which."""

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.adaptation import search_layer_rates
from kedge.catalog import Info
from kedge.claims import Claim, Criterion, packed
from kedge.claims._looped import Labelled, accuracy, pixels
from kedge.data import ImageSet
from kedge.optim import by_layer
from kedge.seeds import generator

info = Info(
    "Partial Is Better Than All: Revisiting Fine-tuning Strategy for Few-shot Learning", "Shen et al.", "AAAI", 2021,
    "https://arxiv.org/abs/2102.03983", "abstract",
)  # fmt: skip

SIDE, SHOTS, FOLDS, BUDGET = 14, 5, 3, 12
STEPS, LR, STAGES, EPISODES = 40, 0.1, 3, 8


class LayerRates(Claim):
    """MNIST at 14 px: a network of three convolutions that learnt 0 to 4 is taken to 5 to 9 by five images of each.

    All steps take all the images; the fresh head has a factor of 1, the convolutions have 0, 0.01, 0.1 or 1 each: of
    these 64 twelve are tried, judged by the 25 images in three folds. Each seed is another network and eight episodes,
    over which accuracy is the mean. "optimism" is what the search says of its winner's accuracy on the folds, "excess"
    what that was above the accuracy on the 2,000 test images.
    """

    methods = ("procedures.finetune", "procedures.lp_ft")
    variants = ("head only", "everything", "everything at 0.1", "searched")
    criteria = (
        Criterion("better than training everything", "accuracy", "searched", "everything"),
        Criterion("better than the head alone", "accuracy", "searched", "head only"),
        Criterion("the winner's accuracy says too much", "excess", "searched", None, "above", 0),
    )
    data = ("mnist",)
    seeds = 4

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Means over eight episodes, in percent."""
        fixed = {"head only": (0.0,) * 3, "everything": (1.0,) * 3, "everything at 0.1": (0.1,) * 3}
        test = _part("test", (5, 6, 7, 8, 9))
        rows = []
        for episode in range(EPISODES):
            few = _few(seed, episode)
            if variant in fixed:
                rows.append({"accuracy": accuracy(_tuned(seed, few, fixed[variant]), test)})
                continue

            def judged(rates: tuple[float, ...], few: Labelled = few) -> Tensor:
                return _folds(seed, few, rates)

            search = search_layer_rates(judged, STAGES, budget=BUDGET, seed=100 * seed + episode)
            right = accuracy(_tuned(seed, few, search.best.rates), test)
            excess = 100 * search.best.accuracy - right
            rows.append({"accuracy": right, "optimism": 100 * search.optimism, "excess": excess})
        return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}


def _folds(seed: int, few: Labelled, rates: tuple[float, ...]) -> Tensor:
    """Which of the few images are right by a model that did not see them."""
    images, labels = few
    right = torch.zeros(len(labels), dtype=torch.bool)
    for fold in range(FOLDS):
        held = torch.arange(len(labels)) // 5 % FOLDS == fold  # the images come in rounds of one of each class
        model = _tuned(seed, (images[~held], labels[~held]), rates)
        with torch.no_grad():
            right[held] = model(images[held]).argmax(1) == labels[held]
    return right


def _tuned(seed: int, few: Labelled, rates: Sequence[float]) -> nn.Module:
    """The pretrained network with a fresh head, after full-batch steps of SGD with momentum."""
    model = _network(seed + 1)
    model.load_state_dict({**_source(seed).state_dict(), **{f"9.{k}": v for k, v in model[9].state_dict().items()}})
    layers = [model[0], model[3], model[6], model[9]]
    numbers = {p: number for number, layer in zip((3, 2, 1, 0), layers, strict=True) for p in layer.parameters()}
    groups = by_layer([{"params": list(numbers)}], numbers, LR, 1.0, 1.0, rates)
    _descend(model, torch.optim.SGD(groups, momentum=0.9), few, STEPS)
    return model


def _descend(model: nn.Module, optimizer: torch.optim.Optimizer, data: Labelled, steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(data[0]), data[1]).backward()
        optimizer.step()


def _network(seed: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
            nn.MaxPool2d(2), nn.Conv2d(32, 32, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 5),
        )  # fmt: skip


@cache
def _source(seed: int) -> nn.Module:
    """Trained for ten epochs on 3,000 images of 0 to 4."""
    images, labels = _part("train", (0, 1, 2, 3, 4))
    draws, model = generator(seed, "source"), _network(1000 + seed)
    rows = torch.randperm(len(labels), generator=draws)[:3000]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(10):
        for batch in rows[torch.randperm(3000, generator=draws)].split(64):
            _descend(model, optimizer, (images[batch], labels[batch]), 1)
    return model


def _few(seed: int, episode: int) -> Labelled:
    """Five images of each of 5 to 9, in rounds of one of each class."""
    images, labels = _part("train", (5, 6, 7, 8, 9))
    order = torch.randperm(len(labels), generator=generator(seed, "episode", episode))
    rows = torch.stack([order[labels[order] == label][:SHOTS] for label in range(5)], 1).flatten()
    return images[rows], labels[rows]


@cache
def _part(split: str, digits: tuple[int, ...]) -> Labelled:
    """The images of five digits, labelled 0 to 4; 2,000 of them for the test."""
    images, labels = pixels(_whole(split))
    there = ((labels >= digits[0]) & (labels <= digits[-1])).nonzero()[:, 0]
    there = there[:2000] if split == "test" else there
    return images[there], labels[there] - digits[0]


@cache
def _whole(split: str) -> ImageSet:
    return packed("mnist", split, SIDE)
