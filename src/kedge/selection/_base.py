"""Scores of images by several models, and the images that are chosen by them."""

import math
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge import catalog
from kedge.checks import unlike_classes
from kedge.data.sets import ImageSet
from kedge.seeds import derive_keys

__all__ = ["ORDERS", "choose", "of_checkpoints", "score"]

ORDERS = ("highest", "lowest", "random")


def score(models: Sequence[Any], images: ImageSet, how: str = "el2n", batch_size: int = 256) -> Tensor:
    """Scores `[N]`, float64, higher for harder images: the mean over models.

    Args:
        models: of kedge, in the same task, early in their training: a few epochs, of several seeds. One that has
            learned its images by heart finds none of them hard. With `forgetting` in place of each model the
            checkpoints of a run, in their order; a generator that loads them holds one at a time.
        images: what they were trained on, with its labels, as they are without augmentation.
        how: a method of this room: `el2n`, `grand` or `forgetting`.
        batch_size: images at a time.

    Raises:
        ValueError: for no models, a method that is none, a model with other classes or the same in another
            order, or a score that is not finite.
        TypeError: for a single model where the checkpoints of a run are needed, or the other way round.
    """
    method: Callable[..., Tensor] = catalog.get("selection", how)
    several = of_checkpoints(how)
    if not models:
        raise ValueError("scores are the mean over models, and there is none: train some for a few epochs")
    for model in models:
        if isinstance(model, Iterable) != several:
            takes = "the checkpoints of a run in place of each model" if several else "models, not several as one"
            raise TypeError(f"{how} takes {takes}, got {type(model).__name__}")
    if several:
        parts = [method(map(partial(_of_images, images), each), images, batch_size) for each in models]
    else:
        models = [_of_images(images, model) for model in models]
        parts = [method(model, images, batch_size) for model in models]
    scores = torch.stack(parts).mean(0)
    if not bool(scores.isfinite().all()):
        raise ValueError(f"{how} of {int((~scores.isfinite()).sum())} images is not finite: the models diverged")
    return scores


def of_checkpoints(how: str) -> bool:
    """Whether a method scores by the checkpoints of a run in place of a model."""
    return bool(getattr(sys.modules[catalog.get("selection", how).__module__], "OF_CHECKPOINTS", False))


def _of_images(images: ImageSet, model: Any) -> Any:
    """The model; ValueError where its classes are not those of the images."""
    own = model.class_names or model.num_outputs
    if (unlike := unlike_classes(images.class_names, own, (images.name, "a model"))) is not None:
        raise ValueError(f"score the images that the models were trained on, with their classes: {unlike}")
    return model


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
    """Places, long `[n]` and rising, of round(share N) images; of equal scores those that the seed draws.

    Args:
        scores: `[N]`.
        labels: long `[N]`.
        share: of the images that are chosen, in (0, 1].
        order: "highest" (the hardest) or "lowest" scores first, or "random".
        offset: share of the images, those with the highest scores, that come last whatever the order: wrong labels are
            among them. With `share` at most 1.
        floor: least share of each class that is chosen, by the same order within it; at most `share`, and above 0 one
            image or more. The order of all images alone can leave whole easy classes out.
        seed: of "random", and of the order of equal scores.

    Raises:
        ValueError: for values out of range.
    """
    check_choice(share, order, offset, floor)
    count = len(scores)
    draws = derive_keys(torch.arange(count), seed, "select")
    by = {"highest": -scores, "lowest": scores, "random": draws}[order]
    drawn = draws.argsort(stable=True)  # a set lists one class after another, and many scores may be equal
    order_of_all = drawn[by[drawn].argsort(stable=True)]
    hardest = drawn[(-scores)[drawn].argsort(stable=True)][: round(offset * count)]
    last = torch.zeros(count, dtype=torch.bool)
    last[hardest] = True
    ranked = torch.cat([order_of_all[~last[order_of_all]], order_of_all[last[order_of_all]]])
    # Of each class its first ones, then the others, both in the order of all.
    rank_in_class = torch.empty(count, dtype=torch.long)
    least = torch.zeros(count, dtype=torch.long)
    for c in labels.unique().tolist():
        own = ranked[labels[ranked] == c]
        rank_in_class[own] = torch.arange(len(own))
        least[own] = max(math.floor(floor * len(own) + 1e-9), int(floor > 0))
    due = (rank_in_class < least)[ranked]
    return torch.cat([ranked[due], ranked[~due]])[: round(share * count)].sort().values
