"""Bilinear transduction: for each input, the reference whose residual looks most like one seen in training."""

import torch
from torch import Tensor

# Values of the [B, K, M] comparison held at a time (64 MB in float32).
CHUNK_VALUES = 2**24


def best_references(x: Tensor, references: Tensor, residuals: Tensor) -> Tensor:
    """For each input the index `[B]` of argmin over r of min over δ of ||(x - r) - δ||².

    Expanded, the distance is ||x||² + ||r + δ||² - 2 x·r - 2 x·δ: two matrix products with x and one table that
    does not depend on it. The table's mean is kept out of the products, where it would cost precision.

    Args:
        x: inputs `[B, ...]`.
        references: `[K, ...]`.
        residuals: `[M, ...]`, differences x - r of training pairs, in the same units.
    """
    x, r, d = (t.flatten(1).float() for t in (x, references, residuals))
    centre = r.mean(0)
    x, r = x - centre, r - centre
    between = r.square().sum(1)[:, None] + d.square().sum(1) + 2 * r @ d.T
    to_references, to_residuals = -2 * x @ r.T, -2 * x @ d.T
    rows = max(1, CHUNK_VALUES // between.numel())
    best = [
        (a[:, :, None] + b[:, None, :] + between).amin(2).argmin(1)
        for a, b in zip(to_references.split(rows), to_residuals.split(rows), strict=True)
    ]
    return torch.cat(best) if best else torch.zeros(0, dtype=torch.long, device=x.device)
