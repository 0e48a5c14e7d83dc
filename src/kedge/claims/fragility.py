"""Led by the worst images of a batch, a network makes fewer confident mistakes and is less fragile, as accurate."""

from typing import Any

from kedge import metrics
from kedge.claims import Criterion, Images, Trained, held_apart, judged
from kedge.objectives.fragility import info as info


class Fragility(Trained):
    """Digits, 700 images; cross-entropy against its exponential mean at k = 2 and 0.5, with and without wrong labels.

    A tenth of the training labels is wrong in the second half of the variants; test labels are clean. Confident
    mistakes are wrong answers with a confidence above 0.9, in percent of all images. The index is infinite where
    1 / index is 0.
    """

    methods = ("objectives.fragility", "metrics.fragility_index")
    variants = ("cross-entropy", "k = 2", "k = 0.5", "cross-entropy, 10 % wrong", "k = 2, 10 % wrong",
                "k = 0.5, 10 % wrong")  # fmt: skip
    criteria = (
        Criterion("less fragile", "index at 0", "k = 0.5", "cross-entropy", "below"),
        Criterion("fewer confident mistakes", "confident mistakes", "k = 0.5", "cross-entropy", "below"),
        Criterion("as accurate", "accuracy", "k = 0.5", "cross-entropy", "near", 1),
        Criterion("fewer confident mistakes with wrong labels", "confident mistakes", "k = 0.5, 10 % wrong",
                  "cross-entropy, 10 % wrong", "below"),
        Criterion("as accurate with wrong labels", "accuracy", "k = 0.5, 10 % wrong", "cross-entropy, 10 % wrong",
                  "near", 1),
    )  # fmt: skip
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 20,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    WRONG: Any = {"label_noise": 0.1}
    changes = {
        "k = 2": {"objective": [{"Fragility": {"k": 2.0}}]},
        "k = 0.5": {"objective": [{"Fragility": {"k": 0.5}}]},
        "cross-entropy, 10 % wrong": WRONG,
        "k = 2, 10 % wrong": {**WRONG, "objective": [{"Fragility": {"k": 2.0}}]},
        "k = 0.5, 10 % wrong": {**WRONG, "objective": [{"Fragility": {"k": 0.5}}]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """700 and 200 images with their own labels, some of which the recipe makes wrong, and all test images."""
        return held_apart("digits", seed, 700, 200)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE, NLL, confident mistakes, and the fragility index."""
        answers = judged(model, images.test)
        confidence, predicted = answers.probs.max(1)
        sure = (confidence > 0.9) & (predicted != answers.labels)
        index = {
            target: float(metrics.fragility_index(answers.probs, answers.labels, target)) for target in (0.0, -0.5)
        }
        return {
            **super().measure(model, images),
            "confident mistakes": 100 * float(sure.double().mean()),
            "index at 0": index[0.0],
            "1 / index at -0.5": 1 / index[-0.5],
        }
