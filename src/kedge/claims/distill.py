"""With a share of the teacher for each image, a student learns more from one that errs than with a fixed share."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kedge import metrics
from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, cut, packed
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, with_label_noise
from kedge.objectives.distill import fitting_share
from kedge.training.calibration import predict_logits

info = Info(
    "Rethinking Soft Labels for Knowledge Distillation: A Bias-Variance Tradeoff Perspective", "Zhou et al.", "ICLR",
    2021, "https://arxiv.org/abs/2102.00650", "code",
)  # fmt: skip
TAUGHT, TRAIN, VAL = 1000, 800, 200  # images of the teacher, of the student, and for its validation
WRONG = 0.3  # the share of the teacher's labels, and of the student's where they are wrong
WEIGHTS: dict[str, float | str] = {"teacher alone": 1.0, "half": 0.5, "weighted": "wsl"}


def _taught(weight: float | str) -> dict[str, Any]:
    return {"objective": [{"Distill": {"temperature": 1.5, "weight": weight}}, "CrossEntropy"]}


class Distill(Trained):
    """Fashion-MNIST at 14 pixels: a teacher of 1,000 images with 30 % wrong labels, a student of 800 others.

    The student is half as wide. Its labels are right, or 30 % of them wrong too. Shares of the teacher: none, all, a
    half, and weighted ("wsl"); T = 1.5. Judged are the first 2,000 test images. "share apart" is how much
    higher the weighted share, of the trained student, is on training images with a wrong label than on the others.
    """

    methods = ("objectives.distill",)
    data = ("fashion_mnist",)
    variants = (
        "cross-entropy", *WEIGHTS, "cross-entropy, wrong", *(f"{name}, wrong" for name in WEIGHTS)
    )  # fmt: skip
    criteria = (
        Criterion("weighted above fixed", "accuracy", "weighted", "half", "above"),
        Criterion("so with wrong labels", "accuracy", "weighted, wrong", "half, wrong", "above"),
        Criterion("and above none", "accuracy", "weighted, wrong", "cross-entropy, wrong", "above"),
        Criterion("the share tells wrong labels", "share apart", "weighted, wrong", None, "above", 0),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 4},
        "anchored": False,
        "augment": "none",
        "objective": ["CrossEntropy"],
        "epochs": 10,
        "batch_size": 50,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    changes = {
        "teacher": {"arguments": {"width": 8}},
        **{name: _taught(weight) for name, weight in WEIGHTS.items()},
        **{f"{name}, wrong": _taught(weight) for name, weight in WEIGHTS.items()},
    }

    def images(self, variant: str, seed: int) -> Images:
        """The images of the teacher, or of the student with right or with wrong labels."""
        drawn, test = cut(_pack("train"), TAUGHT + TRAIN + VAL, seed), _pack("test").subset(range(2000))
        val = drawn.subset(range(TAUGHT + TRAIN, len(drawn)))
        if variant == "teacher":
            return Images(with_label_noise(drawn.subset(range(TAUGHT)), WRONG, seed), val, test, {})
        train = drawn.subset(range(TAUGHT, TAUGHT + TRAIN))
        return Images(with_label_noise(train, WRONG, seed + 1) if variant.endswith("wrong") else train, val, test, {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train with the teacher of the seed; accuracy, ECE and NLL, and how far the share tells wrong labels."""
        images, right, taught = self.images(variant, seed), self.images("", seed).train, teacher(seed)
        models = {"teacher": taught} if variant.split(",")[0] in WEIGHTS else None
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder), models=models)
        logits, answers = (predict_logits(model, images.train)[0] for model in (result.model, taught))
        share, wrong = fitting_share(logits, answers, images.train.labels), images.train.labels != right.labels
        apart = share[wrong].mean() - share[~wrong].mean() if bool(wrong.any()) else torch.zeros(())
        judged, labels = predict_logits(taught, images.test)
        return {
            **self.measure(result.model, images),
            "share": float(share.mean()),
            "share apart": float(apart),
            "teacher's accuracy": 100 * float(metrics.accuracy(judged.softmax(1), labels)),
            "seconds a step": step_seconds(result, len(images.train)),
        }


@cache
def _pack(split: str) -> ImageSet:
    """The first 10,000 images of a part."""
    return packed("fashion_mnist", split, 14).subset(range(10_000))


@cache
def teacher(seed: int) -> Any:
    """The teacher of all students of a seed."""
    claim = Distill()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("teacher", claim.images("teacher", seed), seed, Path(folder)).model
