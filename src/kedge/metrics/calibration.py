"""Expected calibration error over equal-width bins, pooled over the whole set (Guo et al., ICML 2017).

Bin m of M holds the confidences in ((m - 1)/M, m/M]; a confidence of 0 is in the first bin, one of 1 in the
last. Averaging ECE over batches is another, larger number: add the sums of `bin_sums` instead.
(torchmetrics 1.9's calibration error puts a confidence of exactly 1 in a bin of its own, which changes the
result.)
"""

import torch
from torch import Tensor

from kedge.metrics.checks import check_probs

# MPS has no float64; everywhere else sums over millions of samples should not lose digits.
SUM_DTYPE = torch.float32 if torch.backends.mps.is_available() else torch.float64


def _one_hot_bins(confidence: Tensor, bins: int) -> Tensor:
    """`[N, bins]` bool: which bin each confidence `[N]` falls in."""
    if bins < 1:
        raise ValueError(f"bins must be at least 1, but it is {bins}")
    inner = torch.linspace(0, 1, bins + 1, dtype=SUM_DTYPE, device=confidence.device)[1:-1]
    index = torch.bucketize(confidence.to(SUM_DTYPE), inner)
    return index[:, None] == torch.arange(bins, device=confidence.device)


def bin_sums(confidence: Tensor, correct: Tensor, bins: int = 15) -> Tensor:
    """`[3, bins]`: per bin the number of samples, the sum of confidences and the number of correct predictions.

    `confidence` `[N]` in [0, 1], `correct` `[N]` bool or 0/1. Sums of parts of a set add up to those of the
    whole.
    """
    values = torch.stack(
        [torch.ones_like(confidence, dtype=SUM_DTYPE), confidence.to(SUM_DTYPE), correct.to(SUM_DTYPE)]
    )
    return values @ _one_hot_bins(confidence, bins).to(SUM_DTYPE)


def binned_error(sums: Tensor) -> Tensor:
    """Expected calibration error, a scalar in [0, 1], from `bin_sums` `[3, bins]`; empty bins add nothing."""
    return (sums[1] - sums[2]).abs().sum() / sums[0].sum()


def calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Expected calibration error of the top prediction, a scalar in [0, 1]; lower is better.

    `probs` `[N, C]` of the whole set, `labels` `[N]`: Σ_bins (n_bin / N) · |accuracy - mean confidence|.
    With one class the confidence is always 1 and the error 0. Raises ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    confidence, predicted = probs.max(dim=1)
    return binned_error(bin_sums(confidence, predicted == labels, bins))


def reliability(sums: Tensor) -> dict[str, list[float | None]]:
    """The reliability diagram from `bin_sums`, as lists: `edges` (bins + 1), `count`, `confidence`, `accuracy`.

    Mean confidence and accuracy of an empty bin are None.
    """
    count, confidence, correct = sums.tolist()
    bins = len(count)
    return {
        "edges": [i / bins for i in range(bins + 1)],
        "count": [int(n) for n in count],
        "confidence": [s / n if n else None for s, n in zip(confidence, count, strict=True)],
        "accuracy": [s / n if n else None for s, n in zip(correct, count, strict=True)],
    }


def resampled_error(confidence: Tensor, correct: Tensor, weights: Tensor, bins: int = 15) -> Tensor:
    """`[R]` calibration errors of R resamples; `weights` `[R, N]` is how often each sample was drawn."""
    gap = (correct.to(weights.dtype) - confidence.to(weights.dtype))[:, None]
    return (weights @ (gap * _one_hot_bins(confidence, bins))).abs().sum(dim=1) / weights.sum(dim=1)
