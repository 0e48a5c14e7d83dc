"""Of frequent classes an epoch has only as many images as the rarest class has: short epochs, nothing comes twice."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.samplers._base import check_share
from kedge.samplers._by_class import drawn, members
from kedge.seeds import generator

info = Info(
    "A systematic study of the class imbalance problem in convolutional neural networks",
    "Buda et al.",
    "Neural Networks",
    2018,
    "https://arxiv.org/abs/1710.05381",
    "abstract",
)


def undersampled(labels: Tensor, epoch: int, seed: int, ratio: float = 1.0, fresh: bool = True) -> Tensor:
    """Some images of `labels` `[N]`, none twice, at most n_min / `ratio` of each class; long `[M]`, M is N or less.

    n_min is the size of the smallest class that has images. With `ratio` 1 and C classes an epoch has C n_min images:
    compare with others at equal steps, not at equal epochs.

    Args:
        labels, epoch, seed: of the run.
        ratio: the size of the smallest class over that of the largest afterwards, in (0, 1].
        fresh: whether each epoch has other images of the frequent classes; without, those of the first, as in the
            paper: most images are then never seen.

    Raises:
        ValueError: for a ratio out of range.

    Source: random majority undersampling of Buda, Maki and Mazurowski, arXiv 1710.05381; `fresh` is ours.
    """
    check_share("undersampled", "ratio", ratio)
    chosen = generator(seed, "undersampled", epoch if fresh else 0)
    parts = members(labels)
    most = round(min(map(len, parts)) / ratio)
    order = drawn(parts, [min(len(part), most) for part in parts], chosen)
    return order[torch.randperm(len(order), generator=generator(seed, "undersampled order", epoch))]
