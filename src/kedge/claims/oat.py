"""Online anchors beat cross-entropy, and are as accurate as squared error with targets C - 1 and -1."""

from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.objectives.oat import info as info


class OAT(Trained):
    """Digits, 600 images; cross-entropy, at four times the rate too, fixed targets, running and batch anchors."""

    methods = ("objectives.oat",)
    variants = ("cross-entropy", "cross-entropy, lr x 4", "targets C - 1 and -1", "OAT", "OAT, batch anchor")
    criteria = (
        Criterion("more accurate", "accuracy", "OAT", "cross-entropy", "above", 1),
        Criterion("than at four times the rate", "accuracy", "OAT", "cross-entropy, lr x 4", "above", 1),
        Criterion("the anchor itself does nothing", "accuracy", "OAT", "targets C - 1 and -1", "near", 1),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "temperature": True,
        "epochs": 20,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.03, "momentum": 0.9}},
    }
    changes = {
        "cross-entropy, lr x 4": {"optimizer": {"sgd": {"lr": 0.12, "momentum": 0.9}}},
        "targets C - 1 and -1": {"objective": [{"OAT": {"momentum": 1.0}}]},
        "OAT": {"objective": ["OAT"]},
        "OAT, batch anchor": {"objective": [{"OAT": {"momentum": 0.0}}]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """600 and 200 images, and the test images."""
        return held_apart("digits", seed, 600, 200)
