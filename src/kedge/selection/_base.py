"""Scores of images by several models, and the images that are chosen by them."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge import catalog
from kedge.checks import unlike_classes
from kedge.data.sets import ImageSet
from kedge.seeds import derive_keys

__all__ = ["ORDERS", "choose", "score"]

ORDERS = ("highest", "lowest", "random")


def score(models: Sequence[Any], images: ImageSet, how: str = "el2n", batch_size: int = 256) -> Tensor:
    """Scores `[N]`, float64, higher for harder images: the mean over models.

    Args:
        models: of kedge, in the same task, early in their training: a few epochs, of several seeds. One that has
            learned its images by heart finds none of them hard.
        images: what they were trained on, with its labels, as they are without augmentation.
        how: a method of this room: `el2n` or `grand`.
        batch_size: images at a time.

    Raises:
        ValueError: for no models, a method that is none, a model with other classes or the same in another
            order, or a score that is not finite.
    """
    method: Callable[..., Tensor] = catalog.get("selection", how)
    if not models:
        raise ValueError("scores are the mean over models, and there is none: train some for a few epochs")
    for model in models:
        own = model.class_names or model.num_outputs
        if (unlike := unlike_classes(images.class_names, own, (images.name, "a model"))) is not None:
            raise ValueError(f"score the images that the models were trained on, with their classes: {unlike}")
    scores = torch.stack([method(model, images, batch_size) for model in models]).mean(0)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{how} of {int((~scores.isfinite()).sum())} images is not finite: the models diverged")
    return scores


def check_choice(share: float, order: str, offset: float, floor: float) -> None:
    """Raise ValueError for values out of range; arguments as of `choose`."""
    if not 0 < share <= 1:
        raise ValueError(f"share is of the images that are chosen, above 0 and at most 1, got {share}")
    if order not in ORDERS:
        raise ValueError(f"order is one of {', '.join(ORDERS)}, not {order!r}")
    if offset < 0 or offset + share > 1 + 1e-9:
        raise ValueError(f"offset {offset} and share {share} are of the same images: together at most 1, and 0 or more")
    if not 0 <= floor <= share:
        raise ValueError(f"floor is the least share of each class, from 0 to the share of all ({share}), got {floor}")


def choose(
    scores: Tensor,
    labels: Tensor,
    share: float,
    order: str = "highest",
    offset: float = 0.0,
    floor: float = 0.0,
    seed: int = 0,
) -> Tensor:
    """Places, long `[n]` and rising, of round(share N) images, of equal scores the first.

    Args:
        scores: `[N]`.
        labels: long `[N]`.
        share: of the images that are chosen, in (0, 1].
        order: "highest" (the hardest) or "lowest" scores first, or "random".
        offset: share of the images, those with the highest scores, that come last whatever the order: wrong labels are
            among them. With `share` at most 1.
        floor: least share of each class that is chosen, by the same order within it; at most `share`. The order of all
            images alone can leave whole easy classes out.
        seed: of "random".

    Raises:
        ValueError: for values out of range.
    """
    check_choice(share, order, offset, floor)
    count = len(scores)
    draws = derive_keys(torch.arange(count), seed, "select")
    by = {"highest": -scores, "lowest": scores, "random": draws}[order]
    order_of_all = by.argsort(stable=True)
    hardest = (-scores).argsort(stable=True)[: round(offset * count)]
    last = torch.zeros(count, dtype=torch.bool)
    last[hardest] = True
    ranked = torch.cat([order_of_all[~last[order_of_all]], order_of_all[last[order_of_all]]])
    # Of each class its first ones, then the others, both in the order of all.
    rank_in_class = torch.empty(count, dtype=torch.long)
    least = torch.zeros(count, dtype=torch.long)
    for c in labels.unique().tolist():
        own = ranked[labels[ranked] == c]
        rank_in_class[own] = torch.arange(len(own))
        least[own] = math.floor(floor * len(own) + 1e-9)
    due = (rank_in_class < least)[ranked]
    return torch.cat([ranked[due], ranked[~due]])[: round(share * count)].sort().values
