"""Two hundred images of the right kind without a class halve the false positives on unknown ones; noise does not."""

from functools import cache
from typing import Any

import torch

from kedge import metrics
from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, cut, judged, packed
from kedge.data import ImageSet, TensorSet
from kedge.seeds import generator

info = Info(
    "WIT-UAS: A Wildland-fire Infrared Thermal Dataset to Detect Crew Assets From Aerial Views", "Jong et al.", "IROS",
    2023, "https://arxiv.org/abs/2312.09159", "abstract",
)  # fmt: skip
KNOWN, LIKE, UNKNOWN = list("01234"), list("56"), list("789")
NEGATIVES = 200


class Negatives(Trained):
    """Digits: 0 to 4 known, 400 images; unknown are 7 to 9; negatives are 200 images of noise, or of 5 and 6.

    The paper's detectors took fire for people until images of fire were among those they learnt from. "FPR95" is the
    share of unknown test images among those of which the model is surer than of its least sure 5 % known ones. Beside
    it, by how much it is beyond half of that without negatives.
    """

    methods = ("objectives.outlier_exposure",)
    variants = ("no negatives", "noise", "digits 5 and 6")
    criteria = (
        Criterion("in-domain negatives halve it", "FPR95 beyond half", "digits 5 and 6", None, "below", 0),
        Criterion("noise does not", "FPR95 beyond half", "noise", None, "above", 0),
        Criterion("as accurate", "accuracy", "digits 5 and 6", "no negatives", "near", 1),
    )
    seeds = 5
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 20,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    changes = {name: {"objective": ["OutlierExposure", "CrossEntropy"]} for name in variants[1:]}

    def images(self, variant: str, seed: int) -> Images:
        """400 and 100 images of the known digits, and the negatives of the variant."""
        known = cut(packed("digits", "train").only_classes(KNOWN), 500, seed)
        extra: dict[str, ImageSet] = {}
        if variant == "noise":
            pixels = torch.randint(256, (NEGATIVES, *known.image_shape), generator=generator(seed, "noise"))
            extra["outliers"] = TensorSet(pixels.to(torch.uint8), torch.zeros(NEGATIVES).long(), ["noise"])
        elif variant == "digits 5 and 6":
            extra["outliers"] = cut(packed("digits", "train").only_classes(LIKE), NEGATIVES, seed)
        test = packed("digits", "test").only_classes(KNOWN)
        return Images(known.subset(range(400)), known.subset(range(400, len(known))), test, extra)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train; the numbers of `measure`, and how far FPR95 is beyond half of that without negatives."""
        measured = super().run(variant, seed)
        without = measured["FPR95"] if variant == "no negatives" else _without(seed)
        return {**measured, "FPR95 beyond half": measured["FPR95"] - without / 2}

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL of the known digits, AUROC and FPR95 of the confidence against the unknown ones."""
        unknown = packed("digits", "test").only_classes(UNKNOWN)
        known, other = (judged(model, each).probs.amax(1) for each in (images.test, unknown))
        return {
            **super().measure(model, images),
            "AUROC": 100 * float(metrics.auroc(known, other)),
            "FPR95": 100 * float(metrics.fpr95(known, other)),
        }


@cache
def _without(seed: int) -> float:
    """FPR95 without negatives."""
    return Negatives().run("no negatives", seed)["FPR95"]
