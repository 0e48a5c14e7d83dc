"""Binary classifiers on the sphere are as accurate as a softmax, and their largest logit tells what is of no class."""

from typing import Any

from kedge import metrics
from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.data import ImageSet
from kedge.objectives.sphereface2 import info as info
from kedge.training.calibration import predict_logits

KNOWN, NEW = range(8), (8, 9)
COSINES = {"width": 8, "head": "cosine"}


class SphereFace2(Trained):
    """Digits 0 to 7, with test images of 8 and 9 as what is of no class; all with a temperature, 5 seeds.

    AUROC is that of the score which a variant trains: the confidence for a softmax, the largest logit for binary
    classifiers; both are listed besides. One-vs-rest is on the sphere too, without margin and map, both sides weighed
    alike.
    """

    methods = ("objectives.sphereface2", "heads.cosine")
    variants = ("softmax", "softmax of cosines", "one-vs-rest", "SphereFace2", "SphereFace2, r 40, m 0.4")
    seeds = 5
    criteria = (
        Criterion("as accurate", "accuracy", "SphereFace2", "softmax", "near", 1),
        Criterion("tells what is of no class better than a softmax", "AUROC", "SphereFace2", "softmax", "above", 1),
        Criterion("and than one-vs-rest without margin", "AUROC", "SphereFace2", "one-vs-rest", "above", 1),
        Criterion(
            "the scale for many faces is too large for few classes", "AUROC of confidence", "SphereFace2, r 40, m 0.4",
            "SphereFace2", "below", 3,
        ),
    )  # fmt: skip
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "temperature": True,
        "epochs": 20,
        "batch_size": 50,
        "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0.01}},
    }
    changes = {
        "softmax of cosines": {"arguments": COSINES},
        "one-vs-rest": {
            "arguments": COSINES,
            "objective": [{"SphereFace2": {"lam": 0.5, "margin": 0.0, "power": 1.0}}],
        },
        "SphereFace2": {"arguments": COSINES, "objective": ["SphereFace2"]},
        "SphereFace2, r 40, m 0.4": {
            "arguments": COSINES,
            "objective": [{"SphereFace2": {"scale": 40.0, "margin": 0.4}}],
        },
    }

    def images(self, variant: str, seed: int) -> Images:
        """About 640 and 160 images of eight classes, and their test images."""
        self._softmax = variant.startswith("softmax")
        drawn = held_apart("digits", seed, 800, 200)
        self._new = drawn.test.only_classes(NEW)
        train, val, test = (each.only_classes(KNOWN) for each in (drawn.train, drawn.val, drawn.test))
        return Images(train, val, test, {})

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL, and how well scores tell test images of the eight classes from the two others."""
        logits, confidences = zip(*(_scores(model, each) for each in (images.test, self._new)), strict=True)
        of_logit, of_confidence = (100 * float(metrics.auroc(*each)) for each in (logits, confidences))
        return {
            **super().measure(model, images),
            "AUROC": of_confidence if self._softmax else of_logit,
            "AUROC of logit": of_logit,
            "AUROC of confidence": of_confidence,
        }


def _scores(model: Any, images: ImageSet) -> tuple[Any, Any]:
    """The largest logit and the largest probability of each image, `[N]`."""
    logits, _ = predict_logits(model, images)
    return logits.amax(1), logits.double().softmax(1).amax(1)
