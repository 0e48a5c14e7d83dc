"""Fine-tuned with its features kept on unlabelled old images, a model forgets half as much, and still learns."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch

from kedge import metrics
from kedge.checkpoint import save
from kedge.claims import Criterion, Images, Trained, cut, judged, packed
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, TensorSet
from kedge.objectives.keep_features import info as info
from kedge.seeds import generator

FIRST, NEW, VAL, FURTHER = 500, 300, 100, 250  # images: of either training, to validate each, and auxiliary ones


class KeepFeatures(Trained):
    """Digits: a network trained on 500 images goes on with 300 others that are dimmed and noisy.

    A pixel x becomes 0.85 x + 0.05 + 0.12 ξ, ξ normal. Auxiliary images: 250 clean digits that neither training has, or
    250 images of uniform noise, or the noisy training images themselves; λ = 10. "Forgotten" is what is lost on clean
    test images, "learnt" what is won on noisy ones, both in points from the start model.
    """

    methods = ("objectives.keep_features",)
    variants = ("fine-tuning", "kept on noise", "kept on new images", "kept on old images")
    criteria = (
        Criterion("forgets at most half", "forgotten beyond half", "kept on old images", None, "below", 0),
        Criterion("learns at least half", "learnt beyond half", "kept on old images", None, "above", 0),
        Criterion("images of the kind do it", "forgotten", "kept on old images", "kept on noise", "below"),
        Criterion("and not any", "forgotten", "kept on old images", "kept on new images", "below"),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "batch_size": 32,
        "epochs": 15,
        "optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}},
        "batch_norm": "frozen",  # so that the auxiliary images change no statistics, in no variant
    }
    KEPT: Any = {"objective": [{"KeepFeatures": {"weight": 10.0}}, "CrossEntropy"]}
    changes = {
        "start": {"batch_norm": "train", "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}},
        "kept on noise": KEPT,
        "kept on new images": KEPT,
        "kept on old images": KEPT,
    }

    def images(self, variant: str, seed: int) -> Images:
        """The clean images of the first training, or the noisy ones of the second with the auxiliary ones."""
        drawn = cut(packed("digits", "train"), FIRST + NEW + 2 * VAL + FURTHER, seed)
        test, first, last = packed("digits", "test"), FIRST + VAL, FIRST + VAL + NEW + VAL
        if variant == "start":
            return Images(drawn.subset(range(FIRST)), drawn.subset(range(FIRST, first)), test, {})
        train = noisy(drawn.subset(range(first, first + NEW)), seed)
        val = noisy(drawn.subset(range(first + NEW, last)), seed + 1)
        auxiliary = {
            "kept on noise": TensorSet(
                torch.randint(256, (FURTHER, *train.image_shape), generator=generator(seed, "kept")).to(torch.uint8),
                torch.zeros(FURTHER).long(), ["noise"],
            ),
            "kept on new images": train,
            "kept on old images": drawn.subset(range(last, len(drawn))),
        }  # fmt: skip
        return Images(train, val, test, {"auxiliary": auxiliary[variant]} if variant in auxiliary else {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies on old and new images, and what of the change is beyond half of what fine-tuning does."""
        began, plain = _accuracies(start(seed)), _gone_on("fine-tuning", seed)
        own = plain if variant == "fine-tuning" else _gone_on(variant, seed)
        forgotten, learnt = began[0] - own["old images"], own["new images"] - began[1]
        return {
            **own,
            "forgotten": forgotten,
            "learnt": learnt,
            "forgotten beyond half": forgotten - (began[0] - plain["old images"]) / 2,
            "learnt beyond half": learnt - (plain["new images"] - began[1]) / 2,
        }


def noisy(images: ImageSet, seed: int) -> ImageSet:
    """0.85 x + 0.05 + 0.12 ξ of pixels in [0, 1], cut off at 0 and 1."""
    ((pixels, labels),) = images.batches(len(images))
    noise = torch.randn(pixels.shape, generator=generator(seed, "noisy"))
    changed = (0.85 * pixels / 255 + 0.05 + 0.12 * noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    return TensorSet(changed, labels, images.class_names, name="noisy digits", split=images.split)


@cache
def start(seed: int) -> Any:
    """The model of the first training."""
    claim = KeepFeatures()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("start", claim.images("start", seed), seed, Path(folder)).model


@cache
def _gone_on(variant: str, seed: int) -> dict[str, float]:
    claim = KeepFeatures()
    images = claim.images(variant, seed)
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        # The trained weights, whatever validation images say of those of the start.
        place = str(save(start(seed), Path(folder) / "start"))
        claim.base = {**claim.base, "data": "digits", "init_from": place, "average": 1.0}
        result = claim.train(variant, images, seed, Path(folder))
    old, new = _accuracies(result.model)
    return {"old images": old, "new images": new, "seconds a step": step_seconds(result, len(images.train))}


def _accuracies(model: Any) -> tuple[float, float]:
    """In percent, on clean and on noisy test images."""
    clean = packed("digits", "test")
    answers = [judged(model, images) for images in (clean, noisy(clean, 1000))]  # no seed of a run
    old, new = (100 * float(metrics.accuracy(each.probs, each.labels)) for each in answers)
    return old, new
