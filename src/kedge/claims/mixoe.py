"""Fine-tuned on mixtures with outliers, a network knows unknown digits better than exposed to the outliers alone."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from kedge import metrics
from kedge.checkpoint import save
from kedge.claims import Criterion, Images, Trained, cut, judged, packed
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet
from kedge.objectives.mixoe import info as info

KNOWN = [str(digit) for digit in range(7)]


@cache
def _pack(name: str, split: str) -> ImageSet:
    """The first 10,000 images of a part, at 14 pixels."""
    return packed(name, split, 14).subset(range(10_000))


def of_digits(split: str, digits: list[str], count: int, seed: int) -> ImageSet:
    """So many MNIST images of some digits, drawn by the seed."""
    return cut(_pack("mnist", split).only_classes(digits), count, seed)


class MixOE(Trained):
    """MNIST at 14 pixels, digits 0 to 6 known, 1,500 images: a trained network goes on for five epochs.

    Near unknowns are the digits 8 and 9, far ones clothes (Fashion-MNIST); outliers are 600 images of digit 7, or of
    clothes. The controls are more cross-entropy, Mixup without outliers, and outlier exposure; MixOE has the settings
    of the authors' code. "near" and "far" are the AUROC of the confidence against 1,000 test images.
    """

    methods = ("objectives.mixoe", "objectives.outlier_exposure")
    data = ("mnist", "fashion_mnist")
    variants = (
        "cross-entropy", "Mixup", "exposure to 7", "MixOE mixup, 7", "MixOE cutmix, 7", "exposure to clothes",
        "MixOE mixup, clothes", "MixOE cutmix, clothes",
    )  # fmt: skip
    criteria = (
        Criterion("outliers help on their like", "near", "exposure to 7", "cross-entropy", "above"),
        Criterion("mixed ones do", "near", "MixOE cutmix, 7", "cross-entropy", "above"),
        Criterion("more than exposure, near", "near", "MixOE cutmix, 7", "exposure to 7", "above"),
        Criterion("more than exposure, far", "far", "MixOE cutmix, clothes", "exposure to clothes", "above"),
        Criterion("it is the outliers, not mixing", "near", "MixOE mixup, 7", "Mixup", "above"),
        Criterion("as accurate", "accuracy", "MixOE cutmix, 7", "cross-entropy", "near", 1),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "augment": "none",
        "objective": ["CrossEntropy"],
        "batch_size": 50,
        "epochs": 5,
        "optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}},
        "batch_norm": "train",  # and not frozen, as a run from a trained model has it for few images
    }
    changes = {
        "start": {"epochs": 8, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}},
        "Mixup": {"objective": ["Mixup", "CrossEntropy"]},
        **{f"exposure to {kind}": {"objective": [{"OutlierExposure": {"weight": 1.0}}, "CrossEntropy"]}
           for kind in ("7", "clothes")},
        **{f"MixOE {op}, {kind}": {"objective": [{"MixOE": {"op": op}}, "CrossEntropy"]}
           for op in ("mixup", "cutmix") for kind in ("7", "clothes")},
    }  # fmt: skip

    def images(self, variant: str, seed: int) -> Images:
        """1,500 and 300 images of the known digits, 2,000 test images, and the outliers of the variant."""
        drawn = of_digits("train", KNOWN, 1800, seed)
        extra = {}
        if variant.endswith("7"):
            extra = {"outliers": of_digits("train", ["7"], 600, seed)}
        elif variant.endswith("clothes"):
            extra = {"outliers": cut(_pack("fashion_mnist", "train"), 600, seed)}
        test = of_digits("test", KNOWN, 2000, 0)
        return Images(drawn.subset(range(1500)), drawn.subset(range(1500, 1800)), test, extra)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Go on from the network of the seed; accuracy, ECE and NLL, and AUROC in percent."""
        images = self.images(variant, seed)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            # The trained weights, whatever validation images say of those of the start.
            place = str(save(start(seed), Path(folder) / "start"))
            self.base = {**self.base, "data": "mnist", "init_from": place, "average": 1.0}
            result = self.train(variant, images, seed, Path(folder))
        return {**self.measure(result.model, images), "seconds a step": step_seconds(result, len(images.train))}

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL of the known digits, AUROC of the confidence against near and far unknown images."""
        known = judged(model, images.test).probs.amax(1)
        others = {
            "near": of_digits("test", ["8", "9"], 1000, 0),
            "far": cut(_pack("fashion_mnist", "test"), 1000, 0),
        }
        return {
            **super().measure(model, images),
            **{name: 100 * float(metrics.auroc(known, judged(model, each).probs.amax(1)))
               for name, each in others.items()},
        }  # fmt: skip


@cache
def start(seed: int) -> Any:
    """The network that all variants of a seed go on from."""
    claim = MixOE()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("start", claim.images("start", seed), seed, Path(folder)).model
