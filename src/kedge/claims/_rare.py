"""What the claims about rare classes share: such images, what is measured by class, and a head fitted anew."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.claims._images import cut, packed
from kedge.claims._trained import Images
from kedge.data import ImageSet, imbalanced
from kedge.probing.features import features
from kedge.probing.heads import find_head, with_head
from kedge.probing.probe import ProbeData, fit_probe

__all__ = ["BASE", "by_class", "counts_of", "rare_images", "refitted"]

SIDE = 14
VAL, TEST = 200, 3000
# A small network, 400 to 500 steps of 25 images.
BASE = {
    "model": "kedge_resnet_small",
    "arguments": {"width": 8},
    "anchored": False,
    "objective": ["CrossEntropy"],
    "batch_size": 25,
    "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
}


@cache
def _whole(split: str) -> ImageSet:
    return packed("fashion_mnist", split, SIDE)


def rare_images(seed: int, ratio: float, kind: str, largest: int) -> Images:
    """Imbalanced images of Fashion-MNIST, which classes are rare drawn by the seed; to validate by, equal classes."""
    drawn = cut(_whole("train"), len(_whole("train")), seed)
    val, pool = drawn.subset(range(VAL)), drawn.subset(range(VAL, len(drawn)))
    train = imbalanced(pool, ratio, kind, seed, largest=largest)
    return Images(train, val, _whole("test").subset(range(TEST)), {})


def counts_of(images: ImageSet) -> Tensor:
    """How many images each class has, `[C]`."""
    return torch.bincount(images.labels, minlength=len(images.class_names))


def by_class(logits: Tensor, labels: Tensor, counts: Tensor) -> dict[str, float]:
    """In percent: mean of the accuracies of the classes, of the worst class, of the rarer half of them, and ECE.

    Args:
        logits, labels: `[N, C]` and `[N]` of test images.
        counts: `[C]`, training images of each class.
    """
    right = (logits.argmax(1) == labels).double()
    of = torch.stack([right[labels == c].mean() for c in range(len(counts))])
    rare = counts.argsort(stable=True)[: len(counts) // 2]
    return {
        "class accuracy": 100 * float(of.mean()),
        "worst class": 100 * float(of.min()),
        "rare classes": 100 * float(of[rare].mean()),
        "ECE": 100 * float(metrics.calibration_error(logits.softmax(1), labels)),
    }


def refitted(model: Any, images: Images, **how: Any) -> Any:
    """The model with its head fitted anew on its features; `how`: as in `ProbeData`, strength by validation images."""
    head, train = find_head(model), images.train
    data = ProbeData(features(model, head, train)[None], train.labels, len(train.class_names), **how)
    probe = fit_probe(data, (features(model, head, images.val), images.val.labels))
    return with_head(model, head, train.class_names, probe.weight, probe.bias)
