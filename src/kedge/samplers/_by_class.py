"""Draws class by class: so many images of each, all images of a class equally often, give or take one."""

import torch
from torch import Tensor

__all__ = ["drawn", "members"]


def members(labels: Tensor) -> list[Tensor]:
    """The places of each class that has images, long `[n]` each, in the order of the labels `[N]`."""
    by_class = labels.cpu().argsort(stable=True)
    return [part for part in by_class.split(torch.bincount(labels.cpu()).tolist()) if len(part)]


def drawn(parts: list[Tensor], counts: list[int], draws: torch.Generator) -> Tensor:
    """`counts` images of each of the `parts`, in no order: all of one as often as goes, and a random few once more."""
    chosen = []
    for part, count in zip(parts, counts, strict=True):
        rounds, rest = divmod(count, len(part))
        chosen += [part.repeat(rounds), part[torch.randperm(len(part), generator=draws)[:rest]]]
    return torch.cat(chosen)
