"""How alike two sets of features of the same images are: centred kernel alignment."""

import torch
from torch import Tensor

__all__ = ["FEWEST", "cka", "gram"]

FEWEST = 4  # images: of fewer the estimate is the same whatever the features are


def gram(features: Tensor, rows: Tensor | None = None) -> Tensor:
    """XXᵀ `[B, B]` of features `[B, ...]` about their mean, on the scale of its diagonal; 0 of constant features.

    Args:
        features: of B images; widened to float32.
        rows: which images count `[B]` bool; None: all. Those that do not have zeros.
    """
    x = features.flatten(1)
    x = x.to(torch.promote_types(x.dtype, torch.float32))
    counted = x.new_ones(len(x), 1) if rows is None else rows.to(x.dtype)[:, None]
    count = counted.sum().clamp(min=1)
    centred = (x - (counted * x).sum(0) / count) * counted
    size = centred.detach().square().sum() / count
    rounding = (8 * torch.finfo(x.dtype).eps) ** 2 * (counted * x).detach().square().sum() / count
    varies = size > rounding  # else what is left is rounding
    centred = centred * (varies / torch.where(varies, size, 1).sqrt())
    with torch.autocast(x.device.type, enabled=False):
        return centred @ centred.T


def cka(one: Tensor, other: Tensor, debiased: bool = True, rows: Tensor | None = None) -> Tensor:
    """⟨K, L⟩ / (‖K‖ ‖L‖) of two `gram` matrices `[B, B]`; 0 where the features of either are constant.

    Debiased, K and L are centred as an unbiased estimate wants it, without their diagonals (Székely and Rizzo, 2014,
    which is the HSIC of Song et al., 2012, over its value for each of the two): -1 to 1, and about 0 for independent
    features however many they are. Otherwise 0 to 1, and near 1 for any that have many more dimensions than the batch
    has images.
    """
    if debiased:
        one, other = _without_diagonal(one, rows), _without_diagonal(other, rows)
    sizes = one.square().sum() * other.square().sum()
    return (one * other).sum() / sizes.clamp(min=1e-24).sqrt()


def _without_diagonal(matrix: Tensor, rows: Tensor | None) -> Tensor:
    """A symmetric matrix `[B, B]` without its diagonal, centred so that off the diagonal its rows sum to 0."""
    counted = matrix.new_ones(len(matrix)) if rows is None else rows.to(matrix.dtype)
    off = torch.outer(counted, counted).fill_diagonal_(0)
    matrix = matrix * off
    count = counted.sum().clamp(min=FEWEST)
    sums = matrix.sum(0)
    means = (sums[:, None] + sums) / (count - 2)
    return (matrix - means + sums.sum() / ((count - 1) * (count - 2))) * off
