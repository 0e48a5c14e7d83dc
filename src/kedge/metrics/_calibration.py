"""Calibration error of the top prediction over bins, pooled over the whole set (Guo et al., ICML 2017).

Bin m of M equally wide ones holds the confidences in ((m - 1)/M, m/M]; a confidence of 0 is in the first bin, one
of 1 in the last. Bins of equal mass hold N/M samples each (Nguyen & O'Connor, EMNLP 2015); equal confidences stay
together, in the bin of the first of them, so the error does not depend on the order of the samples.
Averaging a calibration error over batches is another, larger number: add the sums of `bin_sums` instead.
(torchmetrics 1.9's calibration error puts a confidence of exactly 1 in a bin of its own, which changes the
result.)
"""

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.metrics._checks import check_confidence, check_probs

# MPS has no float64; everywhere else sums over millions of samples should not lose digits.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64
NORMS, BINNINGS = ("l1", "l2", "max"), ("width", "mass")


def check_bins(bins: int, norm: str = "l1", binning: str = "width") -> None:
    """Raise ValueError unless there is a bin, and norm and binning are among those that there are."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but it is {bins}")
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {', '.join(NORMS)}, but it is {norm!r}")
    if binning not in BINNINGS:
        raise ValueError(f"binning must be one of {', '.join(BINNINGS)}, but it is {binning!r}")


def width_bins(values: Tensor, bins: int) -> Tensor:
    """Which of `bins` equally wide bins of [0, 1] each of `values` `[...]` falls in, int64 `[...]`."""
    check_bins(bins)
    inner = torch.linspace(0, 1, bins + 1, dtype=SUM_DTYPE, device=values.device)[1:-1]
    return torch.bucketize(values.to(SUM_DTYPE), inner)


def _mass_bins(confidence: Tensor, weights: Tensor, bins: int) -> Tensor:
    """`[R, N]` int64: the bin of each sample, where `weights` `[R, N]` say how often each one counts."""
    ordered, order = confidence.sort()
    weights = weights[:, order]
    before = weights.cumsum(1) - weights
    # Of equal confidences the first decides.
    below = before[:, torch.searchsorted(ordered, ordered)].to(SUM_DTYPE)
    total = weights.sum(1, keepdim=True).to(SUM_DTYPE)
    index = torch.div(below * bins, total, rounding_mode="floor").long().clamp(max=bins - 1)
    return torch.empty_like(index).scatter_(1, order.expand_as(index), index)


def mass_bins(confidence: Tensor, bins: int) -> Tensor:
    """Which of `bins` bins of equal mass each of `confidence` `[N]` falls in, int64 `[N]`; equal ones in one bin."""
    check_bins(bins)
    return _mass_bins(confidence, torch.ones_like(confidence, dtype=SUM_DTYPE)[None], bins)[0]


def bin_sums(confidence: Tensor, correct: Tensor, bins: int = 15, binning: str = "width") -> Tensor:
    """`[3, bins]`: per bin the number of samples, the sum of confidences and the number of correct predictions.

    `confidence` `[N]` in [0, 1], `correct` `[N]` bool or 0/1. With `binning="width"` the sums of parts of a set add
    up to those of the whole; bins of equal `"mass"` depend on the whole set. Raises ValueError for another shape, NaN
    and a confidence outside [0, 1].
    """
    check_bins(bins, binning=binning)
    check_confidence(confidence, correct, fewest=0)
    return unchecked_bin_sums(confidence, correct, bins, binning)


def unchecked_bin_sums(confidence: Tensor, correct: Tensor, bins: int, binning: str = "width") -> Tensor:
    """`bin_sums` of what was looked at before, or will be: it never waits for the device."""
    index = mass_bins(confidence, bins) if binning == "mass" else width_bins(confidence, bins)
    values = torch.stack(
        [torch.ones_like(confidence, dtype=SUM_DTYPE), confidence.to(SUM_DTYPE), correct.to(SUM_DTYPE)]
    )
    return values @ (index[:, None] == torch.arange(bins, device=index.device)).to(SUM_DTYPE)


def _norm(count: Tensor, gap: Tensor, norm: str) -> Tensor:
    """The error `[...]` of `count` samples `[..., bins]` whose accuracy and confidence differ by `gap` in sum."""
    gap = gap.abs()
    if norm == "l1":
        return gap.sum(-1) / count.sum(-1)
    mean = gap / count.clamp(min=1)  # an empty bin has no gap
    error = (mean * gap).sum(-1).div(count.sum(-1)).sqrt() if norm == "l2" else mean.amax(-1)
    return torch.where(count.sum(-1) > 0, error, torch.nan)


def binned_error(sums: Tensor, norm: str = "l1") -> Tensor:
    """Calibration error, a scalar in [0, 1], from `bin_sums` `[3, bins]`; empty bins add nothing.

    `norm`: see `calibration_error`.
    """
    check_bins(sums.shape[-1], norm)
    return _norm(sums[0], sums[1] - sums[2], norm)


def calibration_error(
    probs: Tensor, labels: Tensor, bins: int = 15, norm: str = "l1", binning: str = "width"
) -> Tensor:
    """Calibration error of the top prediction, a scalar in [0, 1]; lower is better.

    `probs` `[N, C]` of the whole set, `labels` `[N]`. With g_m = |accuracy - mean confidence| in bin m and n_m its
    samples, `norm` is "l1" (expected calibration error, Σ n_m/N g_m), "l2" (root mean square, √Σ n_m/N g_m²) or
    "max" (largest g_m of the bins that hold samples; one sample can decide it). `binning` is "width" or "mass" (see
    the module). With one class the confidence is always 1 and the error 0. More bins than samples are allowed.
    Raises ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    check_bins(bins, norm, binning)
    confidence, predicted = probs.max(dim=1)
    return binned_error(unchecked_bin_sums(confidence, predicted == labels, bins, binning), norm)


def reliability(sums: Tensor) -> dict[str, list[float | None]]:
    """The reliability diagram from `bin_sums`, as lists: `edges` (bins + 1), and one value per bin of the others.

    `count`, mean `confidence`, `accuracy`, and `low` and `high`, Wilson's 95 % interval of that accuracy. An empty
    bin has None for all but its count.
    """
    count, confidence, correct = sums.tolist()
    bins = len(count)
    bounds = [accuracy_interval(round(s), round(n)) if n else (None, None) for s, n in zip(correct, count, strict=True)]
    return {
        "edges": [i / bins for i in range(bins + 1)],
        "count": [int(n) for n in count],
        "confidence": [s / n if n else None for s, n in zip(confidence, count, strict=True)],
        "accuracy": [s / n if n else None for s, n in zip(correct, count, strict=True)],
        "low": [low for low, _ in bounds],
        "high": [high for _, high in bounds],
    }


def resampled_sums(weights: Tensor, index: Tensor, values: Tensor, size: int) -> Tensor:
    """`[R, size]`: for each of R resamples the sums of weight times value at each place of `index`.

    `weights` `[R, N]` is how often each sample was drawn; `index` long and `values` `[k N]` have k entries a sample,
    all first ones first. Quickest where the weights of one sample are neighbours in memory (`weights.T` contiguous).
    """
    sample = torch.arange(weights.shape[1], device=index.device).repeat(len(index) // weights.shape[1])
    chosen = torch.sparse_coo_tensor(
        torch.stack([index, sample]), values, (size, weights.shape[1]), check_invariants=False
    )
    return torch.sparse.mm(chosen, weights.T.contiguous()).T


def resampled_error(
    confidence: Tensor, correct: Tensor, weights: Tensor, bins: int = 15, norm: str = "l1", binning: str = "width"
) -> Tensor:
    """`[R]` calibration errors of R resamples; `weights` `[R, N]` is how often each sample was drawn.

    `norm` and `binning`: see `calibration_error`. Bins of equal mass are drawn anew for each resample. Raises
    ValueError as `bin_sums`, and for no samples.
    """
    check_bins(bins, norm, binning)
    check_confidence(confidence, correct)
    gap = correct.to(weights.dtype) - confidence.to(weights.dtype)
    if binning == "mass":
        index = _mass_bins(confidence, weights, bins)
        empty = weights.new_zeros(len(weights), bins)
        return _norm(empty.scatter_add(1, index, weights), empty.scatter_add(1, index, weights * gap), norm)
    index = width_bins(confidence, bins)
    sums = resampled_sums(weights, torch.cat([index, index + bins]), torch.cat([torch.ones_like(gap), gap]), 2 * bins)
    return _norm(sums[:, :bins], sums[:, bins:], norm)
