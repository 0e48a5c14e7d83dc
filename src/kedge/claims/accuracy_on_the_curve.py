"""Where halves agree in training, accuracy on images that agree no longer tells that on images that do not."""

import copy
import time
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel, plain
from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.claims._dominoes import dominoes
from kedge.data import ImageSet, TensorSet
from kedge.data.groups import Groups
from kedge.evaluation import accuracy_on_the_curve
from kedge.objectives import CrossEntropy
from kedge.seeds import derive_seed, generator

info = Info(
    "Accuracy on the Curve: On the Nonlinear Correlation of ML Performance Between Data Subpopulations", "Liang et al.",
    "ICML", 2023, "https://arxiv.org/abs/2305.02995", "abstract",
)  # fmt: skip
AGREE = {"halves agree by chance": 0.5, "halves agree in 95 %": 0.95}
TRAIN, JUDGED, NOISE, BATCH = 2000, 1000, 0.7, 32
RATES = (0.003, 0.01, 0.03)
MOMENTS = (3, 5, 8, 13, 20, 32, 50, 80, 125, 200, 320, 500, 800)  # steps after which a model is a point


class AccuracyOnTheCurve(Claim):
    """Dominoes of MNIST and Fashion-MNIST under noise; an MLP at three rates and thirteen moments: 39 points a seed.

    The majority are 1,000 test images whose halves agree, the minority 1,000 whose halves do not. The control trains on
    images whose halves agree half of the time, so that the easy half tells nothing.
    """

    part = "measuring"
    methods = ("metrics.accuracy_by_group",)
    data = ("mnist", "fashion_mnist")
    variants = tuple(AGREE)
    criteria = (
        Criterion("a line without a correlation", "R² of the line", "halves agree by chance", None, "above", 0.7),
        Criterion(
            "and none with one", "R² of the line", "halves agree in 95 %", "halves agree by chance", "below", 0.3
        ),
        Criterion(
            "the minority falls behind", "points behind", "halves agree in 95 %", "halves agree by chance", "above", 10
        ),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train at each rate, judge at each moment, and fit the line through all points."""
        train = noisy(dominoes("train", TRAIN, AGREE[variant], seed, "train"), seed, "train")
        halves = [dominoes("test", JUDGED, agree, seed, f"agree {agree}") for agree in (1.0, 0.0)]
        images, labels = map(torch.cat, zip(*(batch for each in halves for batch in each.batches(JUDGED)), strict=True))
        test = noisy(TensorSet(images, labels, halves[0].class_names, "dominoes", "test"), seed, "test")
        groups = Groups.of(["majority"] * JUDGED + ["minority"] * JUDGED, "whether halves agree")
        began = time.process_time()
        results = accuracy_on_the_curve(models(train, seed), test, groups, "majority", resamples=0)
        curve = results["curves"]["minority"]
        points = [point["accuracy"] for point in results["points"]]
        below = [point["majority"]["value"] - point["minority"]["value"] for point in points]
        return {
            "R² of the line": curve["r2"] or 0.0,
            "R² on probit axes": curve["probit_r2"] or 0.0,
            "x² of the parabola": curve["quadratic"][0],
            "points behind": 100 * sum(below) / len(below),
            "seconds a step": (time.process_time() - began) / (len(RATES) * MOMENTS[-1]),
        }


def noisy(images: ImageSet, seed: int, what: str) -> TensorSet:
    """Images with Gaussian noise of deviation 0.7, cut to [0, 1]: else a few steps learn them all."""
    draws = generator(seed, "noise", what)
    ((loaded, _),) = images.batches(len(images))
    pixels = loaded / 255 + NOISE * torch.randn(loaded.shape, generator=draws)
    changed = (pixels.clamp(0, 1) * 255).round().byte()
    return TensorSet(changed, images.labels, images.class_names, images.name, images.split)


def models(train: TensorSet, seed: int) -> Iterator[tuple[str, PixelModel]]:
    """The network at every moment of a training at every rate."""
    pixels = train.images / 255
    for rate in RATES:
        model, draws = mlp(pixels, seed), generator(seed, "order", str(rate))
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        order: Tensor = torch.empty(0, dtype=torch.long)
        objective = CrossEntropy()
        for step in range(1, MOMENTS[-1] + 1):
            if not len(order):
                order = torch.randperm(len(pixels), generator=draws)
            batch, order = order[:BATCH], order[BATCH:]
            optimizer.zero_grad()
            objective(model, pixels[batch], train.labels[batch]).backward()
            optimizer.step()
            if step in MOMENTS:
                yield f"rate {rate}, step {step}", copy.deepcopy(model).eval()


def mlp(pixels: Tensor, seed: int) -> PixelModel:
    """200-128-2, with first weights drawn by the seed."""
    shape = tuple(pixels.shape[1:])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        layers = nn.Linear(pixels[0].numel(), 128), nn.Linear(128, 2)
    network = nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1])
    return plain(network, mean=float(pixels.mean()), std=float(pixels.std()), example=shape).train()
