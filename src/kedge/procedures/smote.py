"""The head fitted anew on the frozen body, rare classes filled up with points between their images' features."""

import warnings
from functools import partial

import torch
from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.catalog import Info
from kedge.procedures._base import Context, Procedure
from kedge.procedures._stages import bank_features, fit_head
from kedge.seeds import generator

info = Info(
    title="SMOTE: Synthetic Minority Over-sampling Technique",
    authors="Chawla et al.",
    venue="JAIR",
    year=2002,
    url="https://arxiv.org/abs/1106.1813",
    checked="abstract",
)
ROWS = 1024  # whose distances are computed at a time


class Smote(Procedure):
    """The linear probe, on features of which every class has as many as the most frequent: see `filled_up`.

    The body is the model as it comes: trained on the same images, its head is what is mended. The strength of the
    regularisation is chosen by the likelihood of the classes on average; in cross-validation points are made within
    the folds that are fitted on. A class of one image has no partner: its image is copied, with a warning.
    """

    decided_by = ("seed", "head", "references", "strength", "neighbours")
    equal_classes = True

    def run(self, context: Context) -> PixelModel:
        """The body with the head."""
        settings, train = context.settings, context.train
        counts = torch.bincount(train.labels, minlength=len(train.class_names))
        context.record["synthetic"] = int((counts.max() - counts).sum())
        if alone := [name for name, count in zip(train.class_names, counts.tolist(), strict=True) if count == 1]:
            context.record["copied"] = alone
            warnings.warn(
                f"of {', '.join(alone)} there is one image, which has no neighbour in its class: smote copies it",
                stacklevel=2,
            )
        resampled = partial(filled_up, neighbours=settings.neighbours, seed=settings.seed)
        body = context.with_bank(context.model).to(settings.torch_device())
        data = bank_features(context, body, balanced=True, resampled=resampled)
        return fit_head(context, body, data, unseen=False)


def filled_up(
    features: Tensor, labels: Tensor, neighbours: int = 5, seed: int = 0, reach: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Real rows first, then synthetic ones, so that every class has as many as the most frequent: SMOTE.

    A new row is x + u (x' - x): x a row of the class, x' one of its `neighbours` nearest of the same class (all others,
    where there are fewer), u uniform on [0, reach). Each row of a class is an x equally often, give or take one.

    One u for each new row, a point on the segment, as the paper's text says; its pseudo-code draws one for each
    feature, a point in a box. Our reading: the amount is what fills the class up, instead of a multiple of 100 %.
    Source: Chawla et al., "SMOTE: Synthetic Minority Over-sampling Technique", JAIR 16, 2002 (arXiv 1106.1813).

    Args:
        features, labels: `[N, D]` and `[N]`.
        neighbours: 1 or more.
        seed: of all draws.
        reach: 1; 0 is plain oversampling.

    Returns:
        `[M, D]` and `[M]`.
    """
    classes, counts = labels.unique(return_counts=True)
    most = int(counts.max()) if len(counts) else 0
    rows, names = [features], [labels]
    for label, count in zip(classes.tolist(), counts.tolist(), strict=True):
        if (needed := most - count) == 0:
            continue
        draws = generator(seed, "smote", label)
        own = features[labels == label]
        rounds, rest = divmod(needed, count)
        starts = torch.cat([torch.arange(count).repeat(rounds), torch.randperm(count, generator=draws)[:rest]])
        near = nearest(own, min(neighbours, count - 1))
        ends = starts
        if near.shape[1]:
            ends = near[starts, torch.randint(near.shape[1], (needed,), generator=draws)]
        share = reach * torch.rand(needed, 1, generator=draws, dtype=features.dtype)
        rows.append(between(own[starts], own[ends], share))
        names.append(torch.full((needed,), label))
    return torch.cat(rows), torch.cat(names)


def between(start: Tensor, end: Tensor, share: Tensor) -> Tensor:
    """Points `[M, D]` at `share` `[M, 1]` of the way from `start` to `end`."""
    return start + share * (end - start)


def nearest(points: Tensor, count: int) -> Tensor:
    """Of each of `[N, D]` the places of its `count` nearest others, long `[N, count]`."""
    parts = []
    for first in range(0, len(points), ROWS):
        distances = torch.cdist(points[first : first + ROWS].double(), points.double())
        rows = torch.arange(len(distances))
        distances[rows, rows + first] = torch.inf  # not itself, though another may be the same
        parts.append(distances.topk(count, largest=False).indices)
    return torch.cat(parts)
