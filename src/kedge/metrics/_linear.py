"""How well a linear classifier tells two sets of features apart on images that it has not seen."""

import math

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.metrics._results import Estimate

FOLDS = 5
MOST = 2000  # images of a side: more would only make it slower


def linear_separability(features: Tensor, others: Tensor, seed: int = 0) -> Estimate:
    """Held-out accuracy of telling `features` `[N, D]` from `others` `[M, D]` by a linear classifier, both sides alike.

    Logistic regression (L2, C = 1) on features standardised by the training folds, fitted on four fifths and judged on
    the last, five times; the mean of the shares of both sides that are told right. 0.5 is chance, 1 separable. At most
    2,000 of a side are used, drawn by the seed. Interval: Wilson's of both sides put together (MOVER), which takes the
    five fits for one.

    Raises:
        ValueError: for fewer than ten of a side, another width, and features that are not finite.
    """
    if features.ndim != 2 or others.ndim != 2 or features.shape[1] != others.shape[1]:
        raise ValueError(f"features are [N, D] and [M, D], got {[*features.shape]} and {[*others.shape]}")
    if min(len(features), len(others)) < 2 * FOLDS:
        raise ValueError(
            f"linear separability takes {2 * FOLDS} images of each side, got {len(features)} and {len(others)}"
        )
    bad = [int((~side.isfinite()).any(1).sum()) for side in (features, others)]
    if any(bad):
        raise ValueError(f"the features of {bad[0]} and {bad[1]} images are not finite")
    draws = torch.Generator().manual_seed(seed)
    sides = [side[torch.randperm(len(side), generator=draws)[:MOST].to(side.device)] for side in (features, others)]
    x = torch.cat(sides).detach().double().cpu()
    y = torch.cat([torch.full((len(side),), i) for i, side in enumerate(sides)])
    told = _told(x, y)
    shares = [(int(told[y == side].sum()), int((y == side).sum())) for side in (0, 1)]
    rates = [right / total for right, total in shares]
    ends = [accuracy_interval(right, total) for right, total in shares]
    value = sum(rates) / 2
    down = math.hypot(*(rate - low for rate, (low, _) in zip(rates, ends, strict=True))) / 2
    up = math.hypot(*(high - rate for rate, (_, high) in zip(rates, ends, strict=True))) / 2
    return Estimate(value, max(0.0, value - down), min(1.0, value + up))


def _told(x: Tensor, y: Tensor) -> Tensor:
    """`[N]` bool, which rows are told right by a classifier that was fitted without them."""
    from sklearn.linear_model import LogisticRegression  # slow to import

    # Rows of a side are in random order: every fifth is as good as any.
    fold = torch.cat([torch.arange(int((y == side).sum())) % FOLDS for side in (0, 1)])
    told = torch.zeros(len(y), dtype=torch.bool)
    for number in range(FOLDS):
        out = fold == number
        mean, std = x[~out].mean(0), x[~out].std(0)
        scaled = (x - mean) / std.where(std > 1e-12, 1.0)
        classifier = LogisticRegression(class_weight="balanced", max_iter=300)
        classifier.fit(scaled[~out].numpy(), y[~out].numpy())
        told[out] = torch.from_numpy(classifier.predict(scaled[out].numpy())) == y[out]
    return told
