"""Answering only when confident: the threshold for a wanted coverage, and what is gained by it."""

import math

import torch
from torch import Tensor


def threshold_for_coverage(confidence: Tensor, coverage: float) -> float:
    """The highest threshold t for which `confidence >= t` keeps at least `coverage` of the samples.

    `confidence` `[N]`, higher = more certain; `coverage` in (0, 1]. Ties at t are kept, so the share that is
    kept can be larger. Choose it on validation data. Raises ValueError for no samples, NaN, and a coverage
    out of range.
    """
    if confidence.ndim != 1 or confidence.numel() == 0 or bool(confidence.isnan().any()):
        raise ValueError(f"confidence must be [N] without NaN, N >= 1, but its shape is {list(confidence.shape)}")
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, but it is {coverage}")
    keep = math.ceil(coverage * confidence.numel() - 1e-9)
    return float(confidence.sort(descending=True).values[max(keep, 1) - 1])


def selective_accuracy(confidence: Tensor, correct: Tensor, threshold: float) -> tuple[float, float | None]:
    """(coverage, accuracy): the share of samples with `confidence >= threshold`, and the accuracy among those.

    `confidence` `[N]`, `correct` `[N]` bool. The accuracy is None when nothing is kept.
    """
    # The threshold is compared in the dtype of the confidences: stored as JSON it has more digits than a
    # float32.
    kept = confidence >= torch.tensor(threshold, dtype=confidence.dtype, device=confidence.device)
    count = int(kept.sum())
    return count / kept.numel(), float(correct[kept].double().mean()) if count else None
