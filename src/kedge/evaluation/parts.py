"""Accuracy by part: which of the parts of an image a model goes by, where each of them tells the class."""

from typing import Any

import torch

from kedge import metrics
from kedge.data import ImageSet, randomised
from kedge.data.parts import PartedSet
from kedge.data.report import DataError

__all__ = ["accuracy_by_part"]


def accuracy_by_part(model: Any, images: ImageSet, seed: int = 0, batch_size: int = 512) -> dict[str, float]:
    """How often a model is right as the images are, and with each part taken from other images, in [0, 1].

    Where "easy randomised" is at chance the model needs the easy part; where it is "accuracy" it does without.
    "by easy" is how often, with the other parts randomised, it answers what the easy part shows.

    Args:
        model: one of kedge, which predicts, or a callable from images `[B, C, H, W]` in [0, 1] to logits.
        images: with parts, such as those of dominoes.
        seed: of the permutations, see `kedge.data.randomised`.
        batch_size: of the model.

    Returns:
        "accuracy"; for each part "NAME randomised" and "by NAME".

    Raises:
        DataError: for images without parts.

    Source: Shah et al., NeurIPS 2020, arXiv 2006.07710.
    """
    if not isinstance(images, PartedSet):
        raise DataError(f"{images.name} has no parts: name dominoes:EASY+HARD or slabs")
    values = {"accuracy": _accuracy(model, images, images.labels, batch_size)}
    for part in images.parts:
        others = [name for name in images.parts if name != part]
        alone, without = randomised(images, others, seed), randomised(images, part, seed)
        values[f"{part} randomised"] = _accuracy(model, without, images.labels, batch_size)
        values[f"by {part}"] = _accuracy(model, alone, alone.part_labels[part], batch_size)
    return values


@torch.no_grad()
def _accuracy(model: Any, images: ImageSet, labels: torch.Tensor, batch_size: int) -> float:
    if not hasattr(model, "predict"):
        probs = torch.cat([model(loaded / 255).softmax(1) for loaded, _ in images.batches(batch_size)])
    else:
        probs = torch.cat([model.predict(loaded / 255).probs for loaded, _ in images.batches(batch_size)])
    return float(metrics.accuracy(probs.cpu(), labels))
