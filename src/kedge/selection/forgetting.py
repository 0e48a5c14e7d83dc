"""Forgetting events: how often a run, from epoch to epoch, is right about an image and then wrong again."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.data.sets import ImageSet

info = Info(
    "An Empirical Study of Example Forgetting during Deep Neural Network Learning", "Toneva et al.", "ICLR", 2019,
    "https://arxiv.org/abs/1812.05159", "abstract",
)  # fmt: skip
OF_CHECKPOINTS = True  # it scores by the checkpoints of a run, in their order


def forgetting(models: Iterable[Any], images: ImageSet, batch_size: int = 256) -> Tensor:
    """How often each image is right at a checkpoint and wrong at the next, `[N]` in float64.

    An image that no checkpoint is right about was never learned and so never forgotten: the authors count it as
    forgotten without end, here it has the number of checkpoints, more than any other can have. Many images have 0, and
    many the same number: of equal ones `kedge.selection.choose` draws.

    Our reading: the authors look at an image whenever it is in a batch of training, as it is augmented there; here it
    is looked at after each epoch that a checkpoint was kept of, without augmentation, so that less is counted, and an
    image looked at seldom is forgotten seldom. Weights that are a moving average forget less than those that train.

    Args:
        models: of kedge, the checkpoints of one run from its first to its last, two or more; one is held at a time.
        images: with labels.
        batch_size: images at a time.

    Raises:
        ValueError: for fewer than two checkpoints.
    """
    events = torch.zeros(len(images), dtype=torch.long)
    before, ever = torch.zeros(2, len(images), dtype=torch.bool)
    looks = 0
    for model in models:
        right = _right(model, images, batch_size)
        events += before & ~right
        ever |= right
        before = right
        looks += 1
    if looks < 2:
        raise ValueError(f"what is forgotten shows from one checkpoint to the next, and there are {looks} of a run")
    return torch.where(ever, events, looks).double()


@torch.no_grad()
def _right(model: Any, images: ImageSet, batch_size: int) -> Tensor:
    """Which images a model is right about, bool `[N]`."""
    parts = [
        model.predict((pixels / 255).to(model.mean.device)).probs.argmax(1).cpu() == labels
        for pixels, labels in images.batches(batch_size)
    ]
    return torch.cat(parts)
