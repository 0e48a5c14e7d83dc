"""How much of an ensemble is a bank of references: the errors of its references, of tuned copies, and of networks."""

import tempfile
from pathlib import Path
from typing import Any

import torch

import kedge
from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.claims import Criterion, Images, Trained, cut, packed
from kedge.metrics.error_correlation import info as info
from kedge.seeds import derive_seed

MEMBERS = 4


class BankAsEnsemble(Trained):
    """Digits, 200 images to train on, 1,138 to judge by; four answers to each image, and their mean.

    "networks" are four with first weights and orders of their own, "tuned copies" four that go on for the second half
    of the same number of epochs from one start, with orders of their own, "references" the four of the bank of one
    anchored network. "gain" is the accuracy of the mean less the mean accuracy of one, in points, "wrong in all" and
    "right in any" are shares of images. The first two criteria are those of reward models in the paper, carried over;
    the others say that a bank is an ensemble.
    """

    part = "measuring"
    methods = ("metrics.error_correlation", "metrics.oracle_at")
    variants = ("networks", "tuned copies", "references")
    seeds = 3
    criteria = (
        Criterion("errors of networks are less alike than of tuned copies", "error correlation", "networks",
                  "tuned copies", "below", 0.05),
        Criterion("networks gain more than tuned copies", "gain", "networks", "tuned copies"),
        Criterion("errors of references are as unlike as of networks", "error correlation", "references", "networks",
                  "near", 0.05),
        Criterion("a bank gains as much as networks", "gain", "references", "networks", "near", 0.5),
    )  # fmt: skip
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
        "references": {
            "anchored": True,
            "references": MEMBERS,
            "objective": [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"],
        },
    }

    def images(self, variant: str, seed: int) -> Images:
        """200 images, 100 validation images and all others of the training part."""
        drawn = cut(packed("digits", "train"), 10_000, seed)
        parts = [drawn.subset(range(*ends)) for ends in ((0, 200), (200, 300), (300, len(drawn)))]
        return Images(parts[0], parts[1], parts[2], {})

    def recipe(self, variant: str, seed: int) -> dict[str, Any]:
        """Half the epochs where the other half is that of the start."""
        recipe = super().recipe(variant, seed)
        return {**recipe, "epochs": 10} if variant == "tuned copies" else recipe

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """What the four answer alone and together."""
        images = self.images(variant, seed)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            model = self.members(variant, images, seed, Path(folder))
        pixels = torch.cat([loaded for loaded, _ in images.test.batches(512)]) / 255
        outputs = model.outputs(pixels, members=True)
        assert outputs.members is not None
        each, labels = outputs.members.T, images.test.labels
        together = 100 * float((outputs.logits.argmax(1) == labels).double().mean())
        single = 100 * float(metrics.oracle_at(each, labels, 1))
        return {
            "accuracy": together,
            "accuracy of one": single,
            "gain": together - single,
            "error correlation": float(metrics.error_correlation(each, labels)),
            "wrong in all": 100 * float(metrics.wrong_in_all(each, labels)),
            "right in any": 100 * float(metrics.oracle_at(each, labels)),
        }

    def members(self, variant: str, images: Images, seed: int, folder: Path) -> PixelModel:
        """The model whose members, or references, are compared."""
        if variant == "references":
            model: PixelModel = self.train(variant, images, seed, folder).model
            return model
        seeds = [derive_seed(seed, "member", m) % 2**31 for m in range(MEMBERS)]
        start = {}
        if variant == "tuned copies":
            start = {"start": self.train(variant, images, seed, folder / "start").model}
        trained = [self.train(variant, images, own, folder / str(own), **start).model for own in seeds]
        return kedge.Ensemble(trained)
