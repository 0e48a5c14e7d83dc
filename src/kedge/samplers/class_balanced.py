"""Every class equally often: rare images come several times in an epoch, of frequent classes each epoch has others."""

import torch
from torch import Tensor

from kedge.catalog import Info
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


def class_balanced(labels: Tensor, epoch: int, seed: int) -> Tensor:
    """N draws from the N images of `labels` `[N]`, N / C of each of the C classes that have images; long `[N]`.

    What N / C leaves over goes to random classes, one each. A class with fewer images than draws has all of them
    equally often, give or take one; of a class with more, an epoch has a random part, each image at most once. So an
    epoch is as long as without: frequent classes are drawn less often than they are there, rare ones more often.

    Source: random over- and undersampling of Buda, Maki and Mazurowski, arXiv 1710.05381, here both at once and drawn
        afresh each epoch.
    """
    draws = generator(seed, "class balanced", epoch)
    parts = members(labels)
    share, over = divmod(len(labels), len(parts))
    more = torch.zeros(len(parts), dtype=torch.long)
    more[torch.randperm(len(parts), generator=draws)[:over]] = 1
    order = drawn(parts, (share + more).tolist(), draws)
    return order[torch.randperm(len(order), generator=draws)]
