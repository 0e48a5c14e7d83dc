"""Claims about rare classes: what a model is worth by class, and heads refitted on the features of a set."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.claims._trained import Images, judged
from kedge.probing.features import features
from kedge.probing.heads import find_head, with_head
from kedge.probing.probe import ProbeData, fit_probe

__all__ = ["by_class", "by_class_of", "refitted"]


def by_class(labels: Tensor, answers: Tensor, rare: Sequence[int]) -> dict[str, float]:
    """The mean over classes of the share of right answers, that over the `rare` ones, and the worst, in percent."""
    shares = {k: 100 * float((answers == labels)[labels == k].double().mean()) for k in labels.unique().tolist()}
    return {
        "accuracy by class": sum(shares.values()) / len(shares),
        "of rare classes": sum(shares[k] for k in rare) / len(rare),
        "of the worst class": min(shares.values()),
    }


def by_class_of(model: Any, images: Images) -> dict[str, float]:
    """`by_class` on the test images; rare are the classes with fewer training images than the median class."""
    counts = torch.bincount(images.train.labels, minlength=len(images.train.class_names)).double()
    rare = (counts < counts.quantile(0.5)).nonzero()[:, 0].tolist()
    answers = judged(model, images.test)
    return by_class(answers.labels, answers.probs.argmax(1), rare)


def refitted(model: Any, images: Images, **how: Any) -> Any:
    """The model with its head fitted anew on its features; `how`: as in `ProbeData`, strength by validation images."""
    head, train = find_head(model), images.train
    data = ProbeData(features(model, head, train)[None], train.labels, len(train.class_names), **how)
    probe = fit_probe(data, (features(model, head, images.val), images.val.labels))
    return with_head(model, head, train.class_names, probe.weight, probe.bias)
