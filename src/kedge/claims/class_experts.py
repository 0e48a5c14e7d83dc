"""A small network of its own for each class is steadier under corruptions than one network with as many weights."""

import time
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, held_apart
from kedge.data import ImageSet
from kedge.seeds import derive_seed, generator

info = Info(
    "Towards Improving Robustness Against Common Corruptions using Mixture of Class Specific Experts",
    "Kotyan and Vargas", "arXiv", 2023, "https://arxiv.org/abs/2311.10177", "abstract",
)  # fmt: skip

EPOCHS, BATCH, RATE = 20, 50, 0.003
NOISE = 0.35  # standard deviation, of pixels in [0, 1]


class ClassExperts(Claim):
    """Digits, 1,000 images, Adam, no augmentation: ten networks of one output each, and one with as many weights.

    Of the paper's architecture nothing is certain but "dedicated network segments for each class" whose outputs are
    aggregated; this is the plainest such network. It has 8,950 weights, the control 8,876. Both are trained with
    cross-entropy over the ten outputs, and with a binary cross-entropy for each, with which no expert knows another.
    """

    variants = ("one network", "experts", "one network, one-vs-rest", "experts, one-vs-rest")
    criteria = (
        Criterion("as accurate", "accuracy", "experts", "one network", "near", 1),
        Criterion("steadier under noise", "noise", "experts", "one network", "above", 1),
        Criterion("steadier under blur", "blur", "experts", "one network", "above", 1),
        Criterion("steadier when shifted", "shift", "experts", "one network", "above", 1),
        Criterion("and one by one", "noise", "experts, one-vs-rest", "one network, one-vs-rest", "above", 1),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, and measure on the test images as they are, with noise, blurred and shifted by a pixel."""
        images = held_apart("digits", seed, 1000, 0)
        inputs, labels = _tensors(images.train)
        network = fresh("experts" in variant, 10, seed)
        loss = one_vs_rest if "one-vs-rest" in variant else F.cross_entropy
        rule = torch.optim.Adam(network.parameters(), lr=RATE)
        began, steps = time.process_time(), 0
        for epoch in range(EPOCHS):
            order = torch.randperm(len(labels), generator=generator(seed, "order", epoch))
            for batch in order.split(BATCH):
                rule.zero_grad()
                loss(network(inputs[batch]), labels[batch]).backward()
                rule.step()
                steps += 1
        seconds = (time.process_time() - began) / steps
        tests, answers = _tensors(images.test)
        with torch.no_grad():
            shares = {name: network(change(tests)).argmax(1) == answers for name, change in CHANGES.items()}
        return {
            **{name: 100 * float(right.double().mean()) for name, right in shares.items()},
            "seconds a step": seconds,
        }


class Experts(nn.Module):
    """C networks of one output each on the same images, `[B, 1, H, W]` -> `[B, C]`, computed as groups of one."""

    def __init__(self, classes: int, first: int = 8, second: int = 11) -> None:
        super().__init__()
        self.first = nn.Conv2d(classes, classes * first, 3, padding=1, groups=classes)
        self.second = nn.Conv2d(classes * first, classes * second, 3, padding=1, groups=classes)
        self.last = nn.Conv2d(classes * second, classes, 1, groups=classes)
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        """One number for each class."""
        features = F.max_pool2d(self.first(images.expand(-1, self.classes, -1, -1)).relu(), 2)
        outputs: Tensor = self.last(self.second(features).relu().mean((2, 3), keepdim=True)).flatten(1)
        return outputs


class Single(nn.Module):
    """The control: the same layers, once, with as many weights in all, `[B, 1, H, W]` -> `[B, C]`."""

    def __init__(self, classes: int, first: int = 24, second: int = 38) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, first, 3, padding=1)
        self.second = nn.Conv2d(first, second, 3, padding=1)
        self.last = nn.Linear(second, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits."""
        features = F.max_pool2d(self.first(images).relu(), 2)
        logits: Tensor = self.last(self.second(features).relu().mean((2, 3)))
        return logits


def fresh(experts: bool, classes: int, seed: int) -> nn.Module:
    """One of the two with first weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        return Experts(classes) if experts else Single(classes)


def one_vs_rest(outputs: Tensor, labels: Tensor) -> Tensor:
    """The binary cross-entropies of all outputs, their sum over classes and mean over images."""
    one_hot = F.one_hot(labels, outputs.shape[1]).to(outputs.dtype)
    return F.binary_cross_entropy_with_logits(outputs, one_hot, reduction="none").sum(1).mean()


def _noisy(images: Tensor) -> Tensor:
    """The same noise for all variants and seeds, cut off at 0 and 1."""
    return (images + NOISE * torch.randn(images.shape, generator=generator(0, "noisy"))).clamp(0, 1)


CHANGES: Mapping[str, Callable[[Tensor], Tensor]] = {
    "accuracy": lambda images: images,
    "noise": _noisy,
    "blur": lambda images: F.avg_pool2d(images, 3, 1, 1, count_include_pad=False),
    "shift": lambda images: F.pad(images, (1, 0))[..., :-1],
}


def _tensors(images: ImageSet) -> tuple[Tensor, Tensor]:
    ((pixels, labels),) = images.batches(len(images))
    return pixels / 255, labels
