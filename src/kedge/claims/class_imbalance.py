"""Where half of the classes are rare, oversampling them helps most, and a class prior on top of it spoils that."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kedge.claims import Criterion, Images, Trained
from kedge.claims._rare import BASE, by_class, counts_of, rare_images, refitted
from kedge.claims._trained import step_seconds
from kedge.postprocess.class_prior import ClassPrior
from kedge.samplers.oversampled import info as info
from kedge.training.calibration import predict_logits

# What is trained for each variant, and what is done to it afterwards.
PRIOR, ORIGINAL, BALANCED = "class prior", "head on the original set", "head on equal classes"
MADE = {
    "none": ("none", ""),
    "none, class prior": ("none", PRIOR),
    "oversampled": ("oversampled", ""),
    "oversampled, class prior": ("oversampled", PRIOR),
    "undersampled": ("undersampled", ""),
    "balanced weights": ("balanced weights", ""),
    "two-phase": ("oversampled", ORIGINAL),
    "head refitted": ("none", BALANCED),
}


class ClassImbalance(Trained):
    """Fashion-MNIST at 14 px, 400 and 10 images in five classes each, drawn by the seed; about equal steps."""

    methods = ("samplers.oversampled", "samplers.undersampled", "samplers.class_balanced", "postprocess.class_prior")
    variants = tuple(MADE)
    criteria = (
        Criterion("oversampling helps", "class accuracy", "oversampled", "none", "above", 10),
        Criterion("it does more than undersampling", "class accuracy", "oversampled", "undersampled"),
        Criterion("a prior afterwards helps", "class accuracy", "none, class prior", "none", "above", 3),
        Criterion(
            "a prior on top of oversampling corrects twice", "class accuracy", "oversampled, class prior",
            "oversampled", "below", 5,
        ),
        Criterion("weights do as well as oversampling", "class accuracy", "balanced weights", "oversampled", "near", 5),
    )  # fmt: skip
    data = ("fashion_mnist",)
    base = {**BASE, "epochs": 6}
    changes = {
        "oversampled": {"sampler": "oversampled", "epochs": 3},
        "undersampled": {"sampler": "undersampled", "epochs": 120},
        "balanced weights": {"class_weights": "balanced"},
    }

    def images(self, variant: str, seed: int) -> Images:
        """2,050 training images and the first 3,000 test images."""
        return rare_images(seed, 40, "step", 400)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, do what is done afterwards, and measure on the test images."""
        training, after = MADE[variant]
        model, seconds = _trained(training, seed)
        images = self.images(variant, seed)
        counts = counts_of(images.train)
        if after in (ORIGINAL, BALANCED):
            model = refitted(model, images, balanced=after == BALANCED)
        logits, labels = predict_logits(model, images.test)
        if after == PRIOR:
            shares = (counts / counts.sum()).tolist()
            logits = ClassPrior({"target": [1 / len(shares)] * len(shares), "train": shares})(logits)
        return {**by_class(logits, labels, counts), "seconds a step": seconds}


@cache
def _trained(training: str, seed: int) -> tuple[Any, float]:
    """A trained model and the time of a step: several variants begin with the same one."""
    claim = ClassImbalance()
    images = claim.images(training, seed)
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        result = claim.train(training, images, seed, Path(folder))
    steps = int(result.recipe.epochs or 1) * -(-_drawn(training, counts_of(images.train)) // 25)
    epochs = step_seconds(result, 1) * int(result.recipe.epochs or 1)  # one step an epoch: the time of an epoch
    return result.model, epochs / steps


def _drawn(training: str, counts: torch.Tensor) -> int:
    """The images of an epoch."""
    of = {"oversampled": counts.max(), "undersampled": counts.min()}
    return int(of[training] * len(counts)) if training in of else int(counts.sum())
