"""Calibration of every class's probability: class-wise calibration error, and what the Brier score is made of.

Both come from the same sums: for each class c and each of the equally wide bins of its probability, the number of
samples, the sum of their probabilities of c and the number of them that are of class c.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from kedge.metrics._calibration import SUM_DTYPE, width_bins
from kedge.metrics._checks import check_probs
from kedge.metrics._classification import brier_per_sample

# Probabilities looked at in one go: their float64 copies take 32 MB.
_AT_ONCE = 1 << 22


class BrierParts(NamedTuple):
    """The Brier score as reliability - resolution + uncertainty + remainder, each a tensor.

    Attributes:
        reliability: squared distance of probability and frequency in the bins; 0 is calibrated, lower is better.
        resolution: how far the frequencies in the bins are from the overall one; higher is better.
        uncertainty: Σ_c ȳ_c (1 - ȳ_c), of the labels alone.
        remainder: what binning leaves: variance of the probabilities within a bin less twice their covariance with
            the outcomes (Stephenson et al., 2008). 0 if all probabilities in a bin are equal.
    """

    reliability: Tensor
    resolution: Tensor
    uncertainty: Tensor
    remainder: Tensor


def class_sums(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """`[3, C, bins]`: number of samples, sum of probabilities and number of samples of class c, per class and bin.

    `probs` `[N, C]`, `labels` `[N]`. Sums of parts of a set add up to those of the whole.
    """
    classes = probs.shape[1]
    sums = torch.zeros(3, classes * bins, dtype=SUM_DTYPE, device=probs.device)
    first = torch.arange(classes, device=probs.device) * bins
    rows = max(1, _AT_ONCE // classes)
    for p, y in zip(probs.detach().split(rows), labels.long().split(rows), strict=True):
        place = width_bins(p, bins) + first
        values = p.to(SUM_DTYPE).flatten()
        sums[0].scatter_add_(0, place.flatten(), torch.ones_like(values))
        sums[1].scatter_add_(0, place.flatten(), values)
        own = place.gather(1, y[:, None])[:, 0]
        sums[2].scatter_add_(0, own, torch.ones_like(own, dtype=SUM_DTYPE))
    return sums.view(3, classes, bins)


def classwise_error(sums: Tensor) -> Tensor:
    """`[...]` class-wise calibration errors from `class_sums` `[3, ..., C, bins]`."""
    total = sums[0, ..., :1, :].sum((-1, -2))  # every class holds every sample once
    return (sums[1] - sums[2]).abs().sum((-1, -2)) / total / sums.shape[-2]


def classwise_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Calibration error of each class's probability, averaged over classes, a scalar in [0, 1]; lower is better.

    1/C Σ_c Σ_m n_cm/N |share of class c - mean probability of c| over equally wide bins: the static calibration error
    of Nixon et al. (CVPR workshops 2019), class-wise ECE of Kull et al. (NeurIPS 2019). Of many classes most
    probabilities are near 0, and so is the average. `probs` `[N, C]`, `labels` `[N]`. Raises ValueError for logits and
    for no samples.
    """
    check_probs(probs, labels)
    return classwise_error(class_sums(probs, labels, bins))


def brier_parts(sums: Tensor, score: Tensor) -> BrierParts:
    """Parts `[...]` of Brier scores `score` `[...]` from `class_sums` `[3, ..., C, bins]` of the same samples."""
    count, expected, observed = sums
    total = count[..., :1, :].sum((-1, -2))
    rate = observed.sum(-1, keepdim=True) / total[..., None, None]
    samples = count.clamp(min=1)  # an empty bin has no sums
    reliability = ((expected - observed).square() / samples).sum((-1, -2)) / total
    resolution = (count * (observed / samples - rate).square()).sum((-1, -2)) / total
    uncertainty = (rate * (1 - rate)).sum((-1, -2))
    return BrierParts(reliability, resolution, uncertainty, score - (reliability - resolution + uncertainty))


def brier_decomposition(probs: Tensor, labels: Tensor, bins: int = 15) -> BrierParts:
    """What the Brier score of `kedge.metrics.brier` is made of (Murphy, 1973), over equally wide bins.

    Each class is taken as an event with its own bins, and the parts are summed over classes as the score is; so
    brier = reliability - resolution + uncertainty + remainder, where the remainder is what happens within the bins
    (see `BrierParts`). `probs` `[N, C]`, `labels` `[N]`. For the top prediction alone, from columns: hand
    `bin_sums(confidence, correct)[:, None]` and the mean of (confidence - correct)² to `brier_parts`. Raises
    ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    score = brier_per_sample(probs, labels).to(SUM_DTYPE).mean()
    return brier_parts(class_sums(probs, labels, bins), score)


def class_resampler(probs: Tensor, labels: Tensor, bins: int = 15) -> Callable[[Tensor], Tensor]:
    """A function from weights `[R, N]` (how often each sample was drawn) to `class_sums` `[3, R, C, bins]`.

    Few probabilities lie above the first bin: those are summed one by one, and the first bin is what is left of the
    whole, so a thousand classes cost little more than the product of weights and probabilities.
    """
    size, classes = probs.shape
    rows = max(1, _AT_ONCE // classes)
    probs, labels = probs.detach().float(), labels.long()
    above = [torch.nonzero(width_bins(p, bins)) + torch.tensor([i * rows, 0]) for i, p in enumerate(probs.split(rows))]
    sample, column = torch.cat(above).unbind(1)
    values = probs[sample, column]
    place = column * bins + width_bins(values, bins)
    own = (labels[sample] == column).float()
    parts = [
        torch.sparse_coo_tensor(torch.stack([place, sample]), v, (classes * bins, size), check_invariants=False)
        for v in (torch.ones_like(values), values, own)
    ]

    def sums(weights: Tensor) -> Tensor:
        count = weights.sum(1, keepdim=True).expand(-1, classes)
        observed = weights.new_zeros(len(weights), classes).index_add_(1, labels, weights)
        wholes = (count, weights @ probs, observed)
        columns = weights.T.contiguous()
        blocks = weights.new_empty(3, len(weights), classes, bins)
        for whole, part, out in zip(wholes, parts, blocks, strict=True):
            out.copy_(torch.sparse.mm(part, columns).T.view(-1, classes, bins))
            out[..., 0] = whole - out[..., 1:].sum(-1)
        return blocks

    return sums
