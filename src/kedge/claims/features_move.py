"""A training on other images moves the later layers most, and its last layer reads less of what was learnt before."""

import time
from functools import cache

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel, plain
from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.data import ImageSet
from kedge.evaluation import feature_report
from kedge.objectives import CrossEntropy
from kedge.seeds import derive_seed, generator

info = Info(
    "Diagnosing Transformers: Illuminating Feature Spaces for Clinical Decision-Making", "Hsu et al.", "ICLR", 2024,
    "https://arxiv.org/abs/2305.17588", "abstract",
)  # fmt: skip
SIDE, COUNT, JUDGED, BATCH = 14, 2000, 600, 50
FIRST, MORE = 240, 160  # steps on MNIST, and those that follow
LAYERS = ("0", "2", "4", "7")  # three convolutions and the layer of 64 before the answers


class FeaturesMove(Claim):
    """A network of three convolutions trained on MNIST, then further on MNIST (the control) or on Fashion-MNIST.

    Both have the same steps and the same rate; features are compared on MNIST test images, whose classes probes read.
    """

    part = "measuring"
    data = ("mnist", "fashion_mnist")
    variants = ("further on MNIST", "on Fashion-MNIST")
    criteria = (
        Criterion("the last layer moves more than the first", "CKA fall", "on Fashion-MNIST", None, "above", 0.1),
        Criterion("more than with the same images", "CKA fall", "on Fashion-MNIST", "further on MNIST", "above", 0.1),
        Criterion(
            "the first layer loses nothing to speak of",
            "first probe",
            "on Fashion-MNIST",
            "further on MNIST",
            "near",
            3,
        ),
        Criterion(
            "the last reads less of what was learnt", "last probe", "on Fashion-MNIST", "further on MNIST", "below", 1
        ),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, copy, train on, and compare layer by layer."""
        before = trained(network(seed), cut(_packed("mnist", "train"), COUNT, seed), FIRST, seed)[0]
        name, what = ("mnist", "more") if variant == self.variants[0] else ("fashion_mnist", "other")
        after = network(seed)
        after.load_state_dict(before.state_dict())
        after, seconds = trained(after, cut(_packed(name, "train"), COUNT, seed, what), MORE, seed + 100)
        known, held = (cut(_packed("mnist", split), JUDGED, seed, "features") for split in ("train", "test"))
        layers = feature_report(before, after, known, held, LAYERS, outliers=0)["layers"]
        first, last = layers[0], layers[-1]
        return {
            "CKA fall": first["cka"]["value"] - last["cka"]["value"],
            "CKA of the last": last["cka"]["value"],
            "first probe": 100 * (first["after"]["probe"]["value"] - first["before"]["probe"]["value"]),
            "last probe": 100 * (last["after"]["probe"]["value"] - last["before"]["probe"]["value"]),
            "rank of the last": last["after"]["effective_rank"] - last["before"]["effective_rank"],
            "seconds a step": seconds,
        }


@cache
def _packed(name: str, split: str) -> ImageSet:
    return packed(name, split, SIDE)


def network(seed: int) -> PixelModel:
    """Convolutions of 8, 16 and 32 channels, a layer of 64 and the answers; first weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        layers = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(), nn.Flatten(), nn.Linear(512, 64), nn.ReLU(), nn.Linear(64, 10),
        )  # fmt: skip
    return plain(layers, mean=0.2, std=0.3, example=(1, SIDE, SIDE))


def trained(model: PixelModel, images: ImageSet, steps: int, seed: int) -> tuple[PixelModel, float]:
    """So many steps of SGD with momentum, and the seconds of one."""
    ((loaded, labels),) = images.batches(len(images))
    pixels, draws = loaded / 255, generator(seed, "order")
    optimizer, objective = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9), CrossEntropy()
    order: Tensor = torch.empty(0, dtype=torch.long)
    model.train()
    began = time.process_time()
    for _ in range(steps):
        if not len(order):
            order = torch.randperm(len(pixels), generator=draws)
        batch, order = order[:BATCH], order[BATCH:]
        optimizer.zero_grad()
        objective(model, pixels[batch], labels[batch]).backward()
        optimizer.step()
    return model.eval(), (time.process_time() - began) / steps
