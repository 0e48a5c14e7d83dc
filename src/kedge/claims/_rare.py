"""What the claims about rare classes share: Fashion-MNIST with few images of some classes, and what is measured."""

from functools import cache

import torch
from torch import Tensor

from kedge import metrics
from kedge.claims._images import cut, packed
from kedge.claims._trained import Images
from kedge.data import ImageSet, imbalanced

__all__ = ["BASE", "by_class", "counts_of", "rare_images"]

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
    """Imbalanced training images, which classes are rare drawn by the seed; others of equal classes to validate by."""
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
