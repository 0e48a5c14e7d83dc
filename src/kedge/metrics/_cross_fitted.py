"""Calibration errors without the bias of the plug-in, for comparing models.

The error that `calibration` and `smooth` report is not 0 for a calibrated model: of 2,000 labels drawn with exactly the
stated confidences it reads 0.6 % where these are between 0.9 and 1, and 2.5 % where they are between 0.5 and 1. A
difference of two such errors compares that, not calibration.

Any calibration error of the ℓ1 kind is the largest E[w(f) (y - f)] over weights -1 <= w <= 1 of the confidence f: the
signs of the gaps. Weights that are learned on one half of the samples and applied to the other have, whatever they are,
an expectation of exactly 0 for a calibrated model, and never one above the error itself; where the signs are plain, it
is the error itself. This is cross-fitting (Chernozhukov et al., Econometrics Journal 2018) of the variational form of
the error (Berta, Holzmüller, Jordan & Bach 2025); it is averaged over random halves, both ways.

How finely the sign may change is chosen on the learning half as well: for all confidences together, by halves and
quarters of the samples, or by the bins; for smooth ECE for all together or at the width σ* of its kernel. Chosen is
what exceeds by most twice the error that a calibrated model would show: signs that are mostly noise only lose.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from kedge.metrics._calibration import SUM_DTYPE, mass_bins, resampled_sums, width_bins
from kedge.metrics._checks import check_confidence
from kedge.metrics._smooth import COARSE, shared_sums, smooth_error_of, smoothed_sums

SPLITS = 10  # random halves; each is learned on and applied to
_COARSER = (1, 2, 4)  # cells of equal mass whose signs may be better known than those of single bins
_CALIBRATED = math.sqrt(2 / math.pi)  # E|Z| of a standard normal Z: a calibrated model's error, in standard deviations
_DOUBT = 1.6  # standard deviations of a sum from which on it is steeper, see `_steepness`


class CrossFitted(NamedTuple):
    """A calibration error without bias, and how each sample moves it.

    Attributes:
        value: scalar float64; 0 on average for a calibrated model, so it may be negative.
        influence: `[N]` float64; the value's standard error is its standard deviation / √N.
    """

    value: Tensor
    influence: Tensor


def halves(size: int, n: int = SPLITS, seed: int = 0) -> Tensor:
    """`[n, size]` float32: 1 for one random half of the samples, 0 for the other, for n splits."""
    order = torch.rand(n, size, generator=torch.Generator().manual_seed(seed)).argsort(1)
    return (order < size // 2).float()


def cross_fitted_error(
    confidence: Tensor, correct: Tensor, bins: int = 15, binning: str = "width", splits: Tensor | None = None
) -> CrossFitted:
    """The expected calibration error of `calibration_error` without its bias, for comparisons.

    `confidence` `[N]` in [0, 1], N >= 2, `correct` `[N]` bool or 0/1, `splits` `[n, N]` of `halves` (None: its
    default). Raises ValueError for other shapes, NaN and a confidence outside [0, 1].
    """
    confidence, gap, noise, splits = _prepared(confidence, correct, splits)
    last = width_bins(confidence, bins) if binning == "width" else mass_bins(confidence, bins)
    levels = [(mass_bins(confidence, cells), cells) for cells in _COARSER] + [(last, bins)]
    scores, gains, whole = [], [], []
    for index, cells in levels:
        both = torch.cat([index, index + cells])
        first = resampled_sums(splits, both, torch.cat([gap, noise]), 2 * cells)
        total = resampled_sums(splits.new_ones(1, len(gap)), both, torch.cat([gap, noise]), 2 * cells)
        learned, applied = torch.cat([first, total - first]), torch.cat([total - first, first])
        scores.append(_excess(learned[:, :cells].abs(), learned[:, cells:]).sum(1))
        gains.append((learned[:, :cells].sign() * applied[:, :cells]).sum(1))
        whole.append((_excess(total[:, :cells].abs(), total[:, cells:]).sum(), index, total))
    value = _averaged(scores, gains, len(splits), len(gap))
    _, index, total = max(whole, key=lambda level: float(level[0]))
    sums, spread = total[0].tensor_split(2)
    return CrossFitted(value, (_steepness(sums, spread) * sums.sign())[index] * gap)


def cross_fitted_smooth_error(confidence: Tensor, correct: Tensor, splits: Tensor | None = None) -> CrossFitted:
    """The smooth calibration error of `smooth_error` without its bias, for comparisons; see `cross_fitted_error`."""
    confidence, gap, noise, splits = _prepared(confidence, correct, splits)
    every, count = splits.new_ones(1, len(gap)), splits.sum(1)
    first, total = (shared_sums(confidence, gap, weights, COARSE) for weights in (splits, every))
    noise_first, noise_total = (shared_sums(confidence, noise, weights, COARSE) for weights in (splits, every))
    learned, applied = torch.cat([first, total - first]), torch.cat([total - first, first])
    variance = torch.cat([noise_first, noise_total - noise_first])
    weights, score = _kernel_weights(learned, variance, torch.cat([count, len(gap) - count]))
    together = learned.sum(1)
    scores = [_excess(together.abs(), variance.sum(1)), score]
    gains = [together.sign() * applied.sum(1), (weights * applied).sum(1)]
    value = _averaged(scores, gains, len(splits), len(gap))
    weights, score = _kernel_weights(total, noise_total, every.sum(1), steep=True)
    together, variance = total.sum(1), noise_total.sum(1)
    if bool(score > _excess(together.abs(), variance)):
        place = confidence * COARSE
        left = place.floor().clamp(max=COARSE - 1).long()
        own = torch.lerp(weights[0, left], weights[0, left + 1], place - left)
    else:
        own = _steepness(together, variance) * together.sign()
    return CrossFitted(value, own * gap)


def _prepared(confidence: Tensor, correct: Tensor, splits: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Confidence, gap and the gap's variance in a calibrated model, `[N]` on the CPU, and the splits, in float64."""
    check_confidence(confidence, correct, fewest=2)
    if splits is not None and (splits.ndim != 2 or splits.shape[1] != len(confidence)):
        raise ValueError(f"splits must be [n, {len(confidence)}], from halves, but they are {list(splits.shape)}")
    confidence = confidence.detach().cpu().to(SUM_DTYPE).clamp(0, 1)
    splits = halves(len(confidence)) if splits is None else splits
    gap = correct.cpu().to(SUM_DTYPE) - confidence
    return confidence, gap, confidence * (1 - confidence), splits.to(SUM_DTYPE)


def _excess(size: Tensor, variance: Tensor) -> Tensor:
    """How far the size of a sum of gaps exceeds twice what it is in a calibrated model on average."""
    return size - 2 * _CALIBRATED * variance.clamp(min=0).sqrt()


def _averaged(scores: list[Tensor], gains: list[Tensor], splits: int, size: int) -> Tensor:
    """Over splits, the gain of the level that learned best; a level's gains are of both halves."""
    best = torch.stack(scores).argmax(0, keepdim=True)
    return torch.stack(gains).gather(0, best)[0].sum() / splits / size


def _steepness(sums: Tensor, variance: Tensor) -> Tensor:
    """How much faster than |sum| the cross-fitted value changes with a sum, at least 1.

    With z = |sum| / sd, averaging over halves gives sd (z (2Φ(z) - 1) - 2φ(z)): steeper than 1 where the sign is in
    doubt. For a z below 1.6 that is left out: there its opposite, a slope near 0, is as likely.
    """
    z = sums.abs() / variance.clamp(min=1e-12).sqrt()
    density = (-z.square() / 2).exp() / math.sqrt(2 * math.pi)
    slope = torch.erf(z / math.sqrt(2)) + 4 * z * density
    return torch.where(z > _DOUBT, slope, torch.ones_like(slope)).clamp(min=1)


def _kernel_weights(sums: Tensor, noise: Tensor, count: Tensor, steep: bool = False) -> tuple[Tensor, Tensor]:
    """`[R, nodes]` weights on the grid, K_σ* sign(K_σ* sums), and `[R]` by how much the sum exceeds that of noise."""
    sigma = smooth_error_of(sums, count, coarse=True).clamp(min=1 / COARSE)
    smooth = smoothed_sums(sums, sigma)
    # The square of a Gaussian is one of σ / √2, over 2 √π σ.
    variance = smoothed_sums(noise, sigma / math.sqrt(2)) / (2 * math.sqrt(math.pi) * COARSE * sigma[:, None])
    each = _excess(smooth.abs(), variance)
    signs = smooth.sign() * (_steepness(smooth, variance) if steep else 1.0)
    signs[:, [0, -1]] /= 2  # half a step lies within [0, 1] there
    return smoothed_sums(signs, sigma), each.sum(1) - (each[:, 0] + each[:, -1]) / 2
