"""With few images an ensemble beats a single network, a student keeps most of that, and strong decay adds to it."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._trained import step_seconds
from kedge.ensemble import Ensemble

info = Info(
    "Pre-training under infinite compute", "Kim et al.", "arXiv", 2025, "https://arxiv.org/abs/2509.14786", "abstract"
)

MEMBERS = 3
STRONG = "single, decay x 30"


class FewPhotos(Trained):
    """Fashion-MNIST at 14 px, 300 images: single networks, ensembles of three, and a student of the ensemble.

    25 epochs at a weight decay of 5e-4, and of thirty times that. The student learns from the ensemble's answers on
    mixed images of the same 300 (Mixup of three, temperature 1, nothing of the labels alone), for 40 epochs. "single"
    is the mean of the three that the ensemble is made of. The published results are of language models.
    """

    methods = ("objectives.distill",)
    variants = ("single", STRONG, "ensemble", "ensemble, decay x 30", "student")
    criteria = (
        Criterion("an ensemble is better", "accuracy", "ensemble", "single", "above", 1),
        Criterion("strong decay is better", "accuracy", STRONG, "single"),
        Criterion("a student of it beats a single network", "accuracy", "student", "single"),
        Criterion("it keeps 83 % of the gain", "gain kept", "student", None, "above", 83),
    )
    data = ("fashion_mnist",)
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "batch_size": 32,
        "epochs": 25,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}},
    }
    changes = {
        STRONG: {"optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9, "weight_decay": 1.5e-2}}},
        "student": {
            "epochs": 40,
            "objective": [
                {"Mixup": {"alpha": 1.0, "points": 3}},
                {"Distill": {"temperature": 1.0, "weight": 1.0}},
                "CrossEntropy",
            ],
        },
    }

    def images(self, variant: str, seed: int) -> Images:
        """300 and 100 images, and the first 3,000 of the test images."""
        return _images(seed)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Of single networks the mean of three."""
        images, single = _images(seed), _single("single", seed)
        if variant in ("single", STRONG):
            return _single(variant, seed)
        ensemble = Ensemble(_members("single" if "decay" not in variant else STRONG, seed))
        own = self.measure(ensemble, images)
        if variant != "student":
            return own
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder), models={"teacher": ensemble})
        student = self.measure(result.model, images)
        gain = own["accuracy"] - single["accuracy"]
        kept = 100 * (student["accuracy"] - single["accuracy"]) / gain if gain > 0 else 0.0
        return {**student, "gain kept": kept, "seconds a step": step_seconds(result, len(images.train))}


@cache
def _images(seed: int) -> Images:
    return held_apart("fashion_mnist", seed, 300, 100, 14, test=3000)


@cache
def _members(variant: str, seed: int) -> list[Any]:
    claim = FewPhotos()
    models = []
    for number in range(MEMBERS):
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            models.append(claim.train(variant, _images(seed), MEMBERS * seed + number, Path(folder)).model)
    return models


@cache
def _single(variant: str, seed: int) -> dict[str, float]:
    claim = FewPhotos()
    rows = [claim.measure(model, _images(seed)) for model in _members(variant, seed)]
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]}
