"""Trained on the Brier score, a network with a fifth of wrong labels is better calibrated at equal accuracy."""

from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.objectives.brier import info as info


class Brier(Trained):
    """Digits, 600 images with 20 % wrong labels; cross-entropy, at four times the rate too, and the Brier loss."""

    methods = ("objectives.brier",)
    variants = ("cross-entropy", "cross-entropy, lr x 4", "Brier, lr x 4", "Brier")
    criteria = (
        Criterion("better calibrated", "ECE", "Brier, lr x 4", "cross-entropy", "below", 4),
        Criterion(
            "better calibrated than at its own rate", "ECE", "Brier, lr x 4", "cross-entropy, lr x 4", "below", 4
        ),
        Criterion("as accurate", "accuracy", "Brier, lr x 4", "cross-entropy", "near", 1),
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
        "cross-entropy, lr x 4": {"optimizer": {"sgd": {"lr": 0.2, "momentum": 0.9}}},
        "Brier": {"objective": ["Brier"]},
        "Brier, lr x 4": {"objective": ["Brier"], "optimizer": {"sgd": {"lr": 0.2, "momentum": 0.9}}},
    }

    def images(self, variant: str, seed: int) -> Images:
        """600 and 200 images with wrong labels, the clean test images."""
        return held_apart("digits", seed, 600, 200, wrong_labels=0.2)
