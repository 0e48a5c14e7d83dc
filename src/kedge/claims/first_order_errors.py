"""One backward pass predicts what small attacks break, and the errors that these add are proportional to epsilon."""

import math
import tempfile
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.attacks import PGD
from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._trained import step_seconds
from kedge.evaluation import first_order_radius
from kedge.evaluation.attacked import broken_at
from kedge.evaluation.first_order import info as info

RADII = (0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128)
NEAR = 0.032  # up to here the prediction is to hold
NEW = 3  # errors that an epsilon must add for a slope to be read from it
ADVERSARIAL = "first order, adversarial"


class FirstOrderErrors(Trained):
    """Digits, 800 images, a small CNN, and one trained against PGD-5 of radius 0.1; PGD-10 on all test images.

    "off" is how far the predicted accuracy is from the one under attack at most, in points, up to 0.032 and beyond.
    "slope" is log2 of how much more errors twice the epsilon adds, at the smallest that adds three or more: 1 is
    proportional. Control: the same margins with one gradient for all images, their mean.
    """

    part = "measuring"
    methods = ("attacks.pgd",)
    variants = ("one gradient for all", "first order", ADVERSARIAL)
    criteria = (
        Criterion("predicted within a point", "off up to 0.032", "first order", None, "below", 1),
        Criterion("also of an adversarially trained one", "off up to 0.032", ADVERSARIAL, None, "below", 1),
        Criterion("each image's own gradient is needed", "off up to 0.032", "first order", "one gradient for all",
                  "below"),
        Criterion("proportional: not slower", "slope", "first order", None, "above", 0.6),
        Criterion("proportional: not faster", "slope", "first order", None, "below", 1.4),
    )  # fmt: skip
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "augment": "none",
        "batch_size": 32,
        "epochs": 15,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
        "val_pgd_steps": 0,
    }
    changes = {ADVERSARIAL: {"objective": [{"Adversarial": {"attack": {"pgd": {"eps": 0.1, "steps": 5}}}},
                                           "CrossEntropy"]}}  # fmt: skip

    def images(self, variant: str, seed: int) -> Images:
        """800 and 200 images, and the test images."""
        return held_apart("digits", seed, 800, 200)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, attack, predict."""
        model, seconds, images, labels = trained(variant if variant == ADVERSARIAL else "first order", seed)
        broken = broken_at(model, lambda eps: PGD(eps, 10, seed=0), RADII, images, labels)
        radius = first_order_radius(model, images, labels)
        if variant == "one gradient for all":
            radius = shared(radius, margins(model, images, labels))
        left = {eps: (float((broken > eps).double().mean()), float((radius >= eps).double().mean())) for eps in RADII}
        off = {eps: 100 * abs(one - other) for eps, (one, other) in left.items()}
        clean = float((broken > 0).double().mean())
        return {
            "accuracy": 100 * clean,
            "robust at 0.032": 100 * left[NEAR][0],
            "robust at 0.128": 100 * left[RADII[-1]][0],
            "off up to 0.032": max(own for eps, own in off.items() if eps <= NEAR),
            "off beyond": max(own for eps, own in off.items() if eps > NEAR),
            "slope": slope([round((clean - one) * len(labels)) for one, _ in left.values()]),
            "seconds a step": seconds,
        }


def slope(added: list[int]) -> float:
    """log2 of how much more twice the epsilon adds, at the first that adds three or more; NaN where none does."""
    for one, twice in pairwise(added):
        if one >= NEW:
            return math.log2(twice / one)
    return math.nan


def margins(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """How far the true class is above the best other one, `[B]`."""
    with torch.no_grad():
        logits = model(images)
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]


def shared(radius: Tensor, margin: Tensor) -> Tensor:
    """The radii if all images had the mean of their gradients' sizes; what is wrong already stays so."""
    right = radius >= 0
    size = (margin[right] / radius[right]).mean()
    return torch.where(right, margin / size, radius)


@cache
def trained(variant: str, seed: int) -> tuple[Any, float, Tensor, Tensor]:
    """A trained model, the seconds of a step, and the test images `[B, C, H, W]` and labels."""
    claim = FirstOrderErrors()
    images = claim.images(variant, seed)
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        result = claim.train(variant, images, seed, Path(folder))
    ((loaded, labels),) = images.test.batches(len(images.test))
    return result.model.eval(), step_seconds(result, len(images.train)), loaded / 255, labels
