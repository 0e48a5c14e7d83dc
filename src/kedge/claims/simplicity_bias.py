"""Of two parts that both tell the class a network learns the simpler one alone, though it can learn the other."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kedge.anchoring import anchor, plain
from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, cut
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, load
from kedge.evaluation import accuracy_by_part
from kedge.seeds import derive_seed

info = Info(
    "The Pitfalls of Simplicity Bias in Neural Networks", "Shah et al.", "NeurIPS", 2020,
    "https://arxiv.org/abs/2006.07710", "code",
)  # fmt: skip
MNIST = "dominoes:mnist+fashion_mnist"
DATA = {"dominoes": MNIST, "easy half at random": f"{MNIST}@0.5", "dominoes, anchored": MNIST, "slabs": "slabs"}


class SimplicityBias(Trained):
    """MNIST 0 and 1 above Fashion-MNIST dress and coat, 2,000 images; 10,000 points of LMS-5 slabs; an MLP 128-128.

    The optimizer is the authors', SGD without momentum. The control trains with easy halves drawn at random, from which
    it can learn the hard half only. In the measures the simple part is the easy half, or the linear coordinate; the
    complex part is the hard half, or the 63 coordinates of five slabs.
    """

    data = ("mnist", "fashion_mnist")
    variants = tuple(DATA)
    criteria = (
        Criterion("right as they come", "accuracy", "dominoes", None, "above", 99),
        Criterion("near chance without the easy half", "simple randomised", "dominoes", None, "below", 60),
        Criterion("the hard half can be learned", "simple randomised", "easy half at random", None, "above", 90),
        Criterion(
            "and is left out where the easy one is there", "simple randomised", "dominoes", "easy half at random",
            "below", 30,
        ),
        Criterion("slabs: near chance without the line", "simple randomised", "slabs", None, "below", 55),
        Criterion("slabs: as right without the others", "complex randomised", "slabs", None, "above", 99),
    )  # fmt: skip
    base: Any = {"objective": ["CrossEntropy"], "augment": "none", "epochs": 15, "batch_size": 32,
                 "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.0, "weight_decay": 5e-5}}}  # fmt: skip
    changes = {
        "dominoes, anchored": {"objective": [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"]},
        "slabs": {"batch_size": 256, "optimizer": {"sgd": {"lr": 0.1, "momentum": 0.0, "weight_decay": 5e-5}}},
    }

    def images(self, variant: str, seed: int) -> Images:
        """Images drawn by the seed from the training images, the test images of halves that agree."""
        name, count = DATA[variant], 10_000 if variant == "slabs" else 2_000
        drawn = cut(_loaded(name, "train"), count + 200, seed)
        train, val = drawn.subset(range(count)), drawn.subset(range(count, count + 200))
        return Images(train, val, _loaded(name.partition("@")[0], "test"), {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train the MLP, and measure by part."""
        images = self.images(variant, seed)
        network = _mlp(images.train.image_shape, seed)
        how: Any = {"mean": [0.5], "std": [0.25], "example": images.train.image_shape}
        start: Any = plain(network, **how)
        if variant.endswith("anchored"):
            start = anchor(network, **how)
            start.references = images.train.first(10) / 255
        start.class_names = list(images.train.class_names)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder), start=start)
        return {**self.measure(result.model, images), "seconds a step": step_seconds(result, len(images.train))}

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy as they come, and with a part randomised; how often the answer is what the simple part shows."""
        values = accuracy_by_part(model, images.test)
        simple, complex_ = ("simple", "others") if images.test.name.startswith("slabs") else ("easy", "hard")
        return {
            "accuracy": 100 * values["accuracy"],
            "simple randomised": 100 * values[f"{simple} randomised"],
            "complex randomised": 100 * values[f"{complex_} randomised"],
        }


@cache
def _loaded(name: str, split: str) -> ImageSet:
    return load(name, split)


def _mlp(shape: tuple[int, int, int], seed: int) -> nn.Module:
    """128-128, with first weights drawn by the seed."""
    channels, height, width = shape
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        sizes = (nn.Linear(channels * height * width, 128), nn.Linear(128, 128), nn.Linear(128, 2))
    return nn.Sequential(nn.Flatten(), sizes[0], nn.ReLU(), sizes[1], nn.ReLU(), sizes[2])
