"""A bank of class means shows no training photo, and predicts and doubts as well as a bank of photos."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.anchoring import choose_references
from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, held_apart, packed

info = Info("A bank of class means in place of photos", checked="own")
WAYS = ("stratified", "kcenter", "mean", "class-mean")


class PhotoFreeBanks(Trained):
    """Digits, an anchored network; the same weights predict with banks of ten photos (the controls) and of ten means.

    Doubt is the disagreement between references, by which 500 clothes are told from the test digits. "Photos in the
    bank" is the share of references that are a training photo, bit for bit.
    """

    data = ("fashion_mnist",)
    variants = WAYS
    criteria = (
        Criterion("class means are as accurate", "accuracy", "class-mean", "stratified", "near", 1),
        Criterion("and doubt as well", "AUROC of doubt", "class-mean", "stratified", "near", 3),
        Criterion("no photo is in the bank", "photos in the bank", "class-mean", "stratified", "below", 100),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": True,
        "objective": [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"],
        "epochs": 15,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }

    def images(self, variant: str, seed: int) -> Images:
        """800 and 200 images, all test images."""
        return held_apart("digits", seed, 800, 200)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Measure with the bank of a variant."""
        images = self.images(variant, seed)
        model = _trained(seed)
        model.references = choose_references(images.train, 10, variant, seed)
        return self.measure(model, images)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE, AUROC of the disagreement, and photos in the bank."""
        others = packed("fashion_mnist", "test", 8).subset(range(500))
        with torch.no_grad():
            inside, outside = (model.predict(_pixels(each)) for each in (images.test, others))
        bank = [row.numpy().tobytes() for row in model.references.mul(255).round().byte()]
        known = {row.numpy().tobytes() for row in _pixels(images.train).mul(255).round().byte()}
        exact = (model.references * 255 - (model.references * 255).round()).abs().amax((1, 2, 3)) < 1e-3
        photos = sum(row in known and bool(whole) for row, whole in zip(bank, exact, strict=True))
        return {
            "accuracy": 100 * float(metrics.accuracy(inside.probs, images.test.labels)),
            "ECE": 100 * float(metrics.calibration_error(inside.probs, images.test.labels)),
            "AUROC of doubt": 100 * float(metrics.auroc(outside.uncertainty, inside.uncertainty)),
            "photos in the bank": 100 * photos / len(bank),
        }


@cache
def _trained(seed: int) -> Any:
    claim = PhotoFreeBanks()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("stratified", claim.images("stratified", seed), seed, Path(folder)).model


def _pixels(images: Any) -> Tensor:
    return torch.stack([images[i][0] for i in range(len(images))]) / 255
