"""Drawing classes by their validation error, smoothed, does better for rare classes than drawing them equally often."""

from dataclasses import replace
from typing import Any

from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._rare import by_class, counts_of
from kedge.data import imbalanced
from kedge.samplers.error_proportional import info as info
from kedge.training.calibration import predict_logits


class ErrorProportional(Trained):
    """Digits, five classes of 80 images and five of 16, drawn by the seed, 200 validation images: at equal steps."""

    methods = ("samplers.error_proportional",)
    variants = ("as they come", "class-balanced", "error-proportional")
    seeds = 5
    criteria = (
        Criterion("better than as they come", "class accuracy", "error-proportional", "as they come", "above", 1),
        Criterion("better than plain balance", "class accuracy", "error-proportional", "class-balanced"),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 20,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    changes = {
        "class-balanced": {"sampler": "class-balanced"},
        "error-proportional": {"sampler": "error-proportional"},
    }

    def images(self, variant: str, seed: int) -> Images:
        """480 images, 200 validation images as frequent as they come, the test images."""
        drawn = held_apart("digits", seed, 878, 200)
        return replace(drawn, train=imbalanced(drawn.train, 5, "step", seed, largest=80))

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy by class, of the rare ones, of the worst."""
        return by_class(*predict_logits(model, images.test), counts_of(images.train))
