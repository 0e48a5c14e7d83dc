"""Attacked in stages of rising strength, a network becomes more robust than at the whole strength throughout."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from kedge import metrics
from kedge.attacks import PGD
from kedge.catalog import Info
from kedge.checkpoint import save
from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._trained import step_seconds

info = Info(
    "Cascade R-CNN: Delving into High Quality Object Detection", "Cai & Vasconcelos", "CVPR", 2018,
    "https://arxiv.org/abs/1712.00726", "abstract",
)  # fmt: skip
EPS = 0.15
RISING = [1 / 3, 2 / 3, 1.0]


def _stages(shares: list[float] | None) -> dict[str, Any]:
    attack = {"attack": {"pgd": {"eps": EPS, "steps": 5}}}
    return {"objective": [{"Adversarial": {**attack, "stages": shares}}, "CrossEntropy"]}


class EpsilonStages(Trained):
    """Digits, 600 images: a clean network goes on for nine epochs against PGD-5 with ε 0.15, at a constant rate.

    Variants: the whole ε throughout, three epochs each at 0.05, 0.10 and 0.15, and the same reversed. What is
    carried over is the paper's idea of stages of rising strictness, there of boxes in detection. "robust" is the
    accuracy of all test images under PGD-10 with ε 0.15.
    """

    methods = ("objectives.adversarial",)
    variants = ("constant", "rising", "reversed")
    criteria = (
        Criterion("more robust", "robust", "rising", "constant", "above"),
        Criterion("the order does it", "robust", "rising", "reversed", "above"),
        Criterion("more accurate", "accuracy", "rising", "constant", "above"),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "augment": "none",
        "batch_size": 32,
        "epochs": 9,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
        "schedule": "constant",
        "val_pgd_steps": 0,
    }
    changes = {
        "start": {"objective": ["CrossEntropy"], "epochs": 15},
        "constant": _stages(None),
        "rising": _stages(RISING),
        "reversed": _stages(RISING[::-1]),
    }

    def images(self, variant: str, seed: int) -> Images:
        """600 and 200 images, and the test images."""
        return held_apart("digits", seed, 600, 200)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Go on from the clean network of the seed; accuracy, ECE, NLL, and accuracy under attack."""
        images = self.images(variant, seed)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            # The trained weights, whatever validation images say of those of the start.
            place = str(save(start(seed), Path(folder) / "start"))
            self.base = {**self.base, "data": "digits", "init_from": place, "average": 1.0}
            result = self.train(variant, images, seed, Path(folder))
        return {**self.measure(result.model, images), "seconds a step": step_seconds(result, len(images.train))}

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL, and the accuracy under attack."""
        ((loaded, labels),) = images.test.batches(len(images.test))
        attacked = PGD(EPS, 10, seed=0)(model.eval(), loaded / 255, labels)
        robust = float(metrics.accuracy(model(attacked).detach().softmax(1), labels))
        return {**super().measure(model, images), "robust": 100 * robust}


@cache
def start(seed: int) -> Any:
    """The clean network that all variants of a seed go on from."""
    claim = EpsilonStages()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("start", claim.images("start", seed), seed, Path(folder)).model
