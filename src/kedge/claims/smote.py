"""A head refitted on features with SMOTE mends rare classes, and does so better than plain oversampling."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._rare import by_class, counts_of, refitted
from kedge.data import imbalanced
from kedge.procedures.smote import filled_up
from kedge.procedures.smote import info as info
from kedge.training import RunResult
from kedge.training.calibration import predict_logits


class Smote(Trained):
    """Digits, five classes of 80 images and five of 4, drawn by the seed; the body trained on them, heads refitted."""

    methods = ("procedures.smote",)
    variants = ("as trained", "refitted", "class weights", "oversampled", "SMOTE")
    seeds = 5
    criteria = (
        Criterion("mends rare classes", "class accuracy", "SMOTE", "as trained", "above", 3),
        Criterion("better than copies", "class accuracy", "SMOTE", "oversampled"),
        Criterion("better than weights", "class accuracy", "SMOTE", "class weights"),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 30,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }

    def images(self, variant: str, seed: int) -> Images:
        """420 images, 200 validation images as frequent as they come, the test images."""
        drawn = held_apart("digits", seed, 878, 200)
        return replace(drawn, train=imbalanced(drawn.train, 20, "step", seed, largest=80))

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy by class of the network with the head of the variant."""
        return by_class(*predict_logits(model, images.test), counts_of(images.train))

    def train(self, variant: str, images: Images, seed: int, folder: Path, **others: Any) -> RunResult:
        """The training that all variants share, and the head of this one."""
        result = super().train(variant, images, seed, folder, **others)
        how: dict[str, dict[str, Any]] = {
            "refitted": {},
            "class weights": {"balanced": True},
            "oversampled": {"balanced": True, "resampled": partial(filled_up, seed=seed, reach=0.0)},
            "SMOTE": {"balanced": True, "resampled": partial(filled_up, seed=seed)},
        }
        return replace(result, model=refitted(result.model, images, **how[variant])) if variant in how else result
