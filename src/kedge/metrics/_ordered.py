"""What the metrics of ordered classes share."""

import torch
from torch import Tensor

from kedge.metrics._base import Answers


def applies_to(sample: Answers) -> bool:
    """Whether the classes of a model are ordered, which its recipe says and nothing else."""
    return bool(sample.settings.get("ordered"))


def check_ranks(predicted: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless both are class indices `[N]`, N of 1 or more."""
    for name, ranks in (("predicted", predicted), ("labels", labels)):
        if ranks.ndim != 1 or ranks.is_floating_point() or ranks.dtype == torch.bool:
            raise ValueError(
                f"{name} must be ranks [N], the indices of ordered classes, but they are {ranks.dtype} "
                f"{list(ranks.shape)}: take the argmax(1) of probabilities or logits"
            )
    if len(predicted) != len(labels):
        raise ValueError(f"there are {len(predicted)} predictions for {len(labels)} labels")
    if len(labels) == 0:
        raise ValueError("an agreement of no images is undefined: there are 0 labels")
