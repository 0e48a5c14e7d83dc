"""Trained on with its own right answers as targets, a model forgets half as much, and still learns the new images."""

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
from kedge.objectives.self_targets import info as info
from kedge.seeds import generator

FIRST, NEW, VAL = 500, 300, 100  # images of the first training, of the second, and for the validation of each


class SelfTargets(Trained):
    """Digits: a network trained on 500 images goes on with 300 others that are dimmed and noisy.

    A pixel x becomes 0.85 x + 0.05 + 0.12 ξ, ξ normal. Variants: gold labels, self-targets of weight 1 and 0.5, and
    distillation from the start model on all images. "Forgotten" is what is lost on clean test images, "learnt" what is
    won on noisy ones, both in points from the start model.
    """

    methods = ("objectives.self_targets",)
    variants = ("gold labels", "self-targets", "self-targets, half", "distil everything")
    criteria = (
        Criterion("forgets at most half", "forgotten beyond half of gold's", "self-targets", None, "below", 0),
        Criterion("learns at least half", "learnt beyond half of gold's", "self-targets", None, "above", 0),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "batch_size": 32,
        "epochs": 15,
        "optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}},
        "batch_norm": "train",  # and not frozen, as a run from a trained model has it for few images
    }
    changes = {
        "start": {"epochs": 15, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}},
        "self-targets": {"objective": ["SelfTargets", "CrossEntropy"]},
        "self-targets, half": {"objective": [{"SelfTargets": {"weight": 0.5}}, "CrossEntropy"]},
        "distil everything": {"objective": [{"Distill": {"temperature": 1.0, "weight": 1.0}}, "CrossEntropy"]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """The clean images of the first training, or the noisy ones of the second; the clean test images."""
        drawn, test = cut(packed("digits", "train"), FIRST + NEW + 2 * VAL, seed), packed("digits", "test")
        if variant == "start":
            return Images(drawn.subset(range(FIRST)), drawn.subset(range(FIRST, FIRST + VAL)), test, {})
        train = drawn.subset(range(FIRST + VAL, FIRST + VAL + NEW))
        val = drawn.subset(range(FIRST + VAL + NEW, len(drawn)))
        return Images(noisy(train, seed), noisy(val, seed + 1), test, {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies on old and new images before and after, and what of that is beyond half of what gold labels do."""
        began, gold = _accuracies(start(seed), seed), _gone_on("gold labels", seed)
        own = gold if variant == "gold labels" else _gone_on(variant, seed)
        forgotten, learnt = began[0] - own["old images"], own["new images"] - began[1]
        return {
            **own,
            "old images, start": began[0],
            "new images, start": began[1],
            "forgotten": forgotten,
            "learnt": learnt,
            "forgotten beyond half of gold's": forgotten - (began[0] - gold["old images"]) / 2,
            "learnt beyond half of gold's": learnt - (gold["new images"] - began[1]) / 2,
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
    claim = SelfTargets()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train("start", claim.images("start", seed), seed, Path(folder)).model


@cache
def _gone_on(variant: str, seed: int) -> dict[str, float]:
    claim, model = SelfTargets(), start(seed)
    images = claim.images(variant, seed)
    models = {"teacher": model} if variant == "distil everything" else None
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        # The trained weights, whatever validation images say of those of the start.
        going_on = {"data": "digits", "init_from": str(save(model, Path(folder) / "start")), "average": 1.0}
        claim.base = {**claim.base, **going_on}
        result = claim.train(variant, images, seed, Path(folder), models=models)
    old, new = _accuracies(result.model, seed)
    return {"old images": old, "new images": new, "seconds a step": step_seconds(result, len(images.train))}


def _accuracies(model: Any, seed: int) -> tuple[float, float]:
    """In percent, on clean and on noisy test images."""
    clean = packed("digits", "test")
    answers = [judged(model, images) for images in (clean, noisy(clean, seed + 2))]
    old, new = (100 * float(metrics.accuracy(each.probs, each.labels)) for each in answers)
    return old, new
