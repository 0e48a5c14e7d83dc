"""Classes that are wrong more often on validation images are drawn more often, smoothed over the epochs."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.samplers._by_class import drawn, members
from kedge.seeds import generator

info = Info(
    "Skill-Targeted Adaptive Training", "He et al.", "arXiv", 2025, "https://arxiv.org/abs/2510.10023", "abstract"
)
MOST = 0.5  # of the exponent: above it, draws swing with the noise of few validation images


def error_proportional(
    labels: Tensor,
    epoch: int,
    seed: int,
    errors: Sequence[Sequence[float]] = (),
    exponent: float = 0.5,
    memory: float = 0.7,
    floor: float = 0.05,
) -> Tensor:
    """N draws from the N images of `labels` `[N]`, of class c a share proportional to (e_c + floor)^exponent; `[N]`.

    e is the error by class on the validation images, e_t = memory · e_(t-1) + (1 - memory) · that after epoch t, from
    that after the first. Equal errors, and the first epoch, give every class as many draws: `class_balanced`. Within a
    class all images come equally often, give or take one, drawn afresh each epoch.

    By validation error, as training losses chase wrong labels; by classes, as single images say too little. Smoothed,
    and with an exponent of at most a half: drawn in proportion, draws follow the noise of the validation images.

    Source: targeting of the groups with the largest validation error in "Skill-Targeted Adaptive Training", arXiv
        2510.10023 (abstract), carried over from skills to classes; floor, exponent and memory are kedge's own.

    Args:
        labels, epoch, seed: of the run.
        errors: of the run: for each epoch that is over the shares of wrong answers by class `[C]`; NaN for a class
            without validation images, which counts as the mean of the others.
        exponent: in [0, 0.5]; 0 draws classes equally often.
        memory: in [0, 1): how much of the smoothed error stays from epoch to epoch.
        floor: above 0: what a class without errors counts.

    Raises:
        ValueError: for a value out of range.
    """
    if not 0 <= exponent <= MOST:
        raise ValueError(
            f"sampler error_proportional: exponent is in [0, {MOST}], got {exponent}: above that draws follow noise"
        )
    if not 0 <= memory < 1:
        raise ValueError(f"sampler error_proportional: memory is 0 or more and below 1, got {memory}")
    if not 0 < floor < math.inf:
        raise ValueError(f"sampler error_proportional: floor must be above 0, got {floor}")
    draws = generator(seed, "error proportional", epoch)
    parts = members(labels)
    weights = torch.ones(len(parts), dtype=torch.float64)
    if epoch and len(errors):
        there = torch.stack([labels[part[0]].cpu() for part in parts])
        weights = (smoothed(errors[:epoch], memory)[there] + floor) ** exponent
    exact = len(labels) * weights / weights.sum()
    counts = exact.floor().long()
    over = len(labels) - int(counts.sum())
    # What is left over goes to the largest remainders, of equal ones to random classes.
    shuffle = torch.randperm(len(parts), generator=draws)
    remainders = ((exact - counts)[shuffle] * 1e9).round()
    counts[shuffle[remainders.argsort(stable=True, descending=True)[:over]]] += 1
    order = drawn(parts, counts.tolist(), draws)
    return order[torch.randperm(len(order), generator=draws)]


def smoothed(errors: Sequence[Sequence[float]], memory: float) -> Tensor:
    """The moving average `[C]` of errors by class, float64, over epochs, the last one with weight 1 - memory."""
    values = torch.tensor([list(row) for row in errors], dtype=torch.float64)
    means = values.nanmean(1, keepdim=True).nan_to_num(1.0)
    values = torch.where(values.isnan(), means, values)
    average = values[0]
    for row in values[1:]:
        average = memory * average + (1 - memory) * row
    return average
