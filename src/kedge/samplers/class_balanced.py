"""Every class equally often: rare images come several times in an epoch, of frequent classes each epoch has others."""

import torch
from torch import Tensor

from kedge.catalog import Info
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
    by_class = labels.cpu().argsort(stable=True)
    counts = torch.bincount(labels.cpu())
    members = [part for part in by_class.split(counts.tolist()) if len(part)]
    share, over = divmod(len(labels), len(members))
    more = torch.zeros(len(members), dtype=torch.long)
    more[torch.randperm(len(members), generator=draws)[:over]] = 1
    parts = []
    for part, count in zip(members, (share + more).tolist(), strict=True):
        rounds, rest = divmod(count, len(part))
        parts += [part.repeat(rounds), part[torch.randperm(len(part), generator=draws)[:rest]]]
    drawn = torch.cat(parts)
    return drawn[torch.randperm(len(drawn), generator=draws)]
