"""Images of rare classes come again until their class is as large as the largest: longer epochs, nothing left out."""

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


def oversampled(labels: Tensor, epoch: int, seed: int, ratio: float = 1.0) -> Tensor:
    """Every image of `labels` `[N]`, those of rare classes several times; long `[M]`, M is N or more.

    A class with fewer images than `ratio` times those of the largest has that many draws: all of its images equally
    often, give or take one, and which ones come once more is drawn afresh each epoch. With `ratio` 1 and C classes an
    epoch has C n_max images: compare with others at equal steps, not at equal epochs.

    Args:
        labels, epoch, seed: of the run.
        ratio: the size of the smallest class over that of the largest afterwards, in (0, 1].

    Raises:
        ValueError: for a ratio out of range.

    Source: random minority oversampling of Buda, Maki and Mazurowski, arXiv 1710.05381, where images are replicated
        once for all epochs; drawn afresh here.
    """
    check_share("oversampled", "ratio", ratio)
    draws = generator(seed, "oversampled", epoch)
    parts = members(labels)
    least = round(ratio * max(map(len, parts)))
    order = drawn(parts, [max(len(part), least) for part in parts], draws)
    return order[torch.randperm(len(order), generator=draws)]
