"""Every calibration measure of a set at once, each with its bootstrap interval."""

from collections.abc import Callable

import torch
from torch import Tensor

from kedge.metrics.bootstrap import interval
from kedge.metrics.bootstrap import resamples as draw
from kedge.metrics.calibration import bin_sums, binned_error, resampled_error
from kedge.metrics.checks import check_probs
from kedge.metrics.classification import brier_per_sample, nll_per_sample
from kedge.metrics.classwise import brier_parts, class_resampler, class_sums, classwise_error
from kedge.metrics.cross_fitted import CrossFitted, cross_fitted_error, cross_fitted_smooth_error, halves
from kedge.metrics.smooth import resampled_smooth_error, smooth_error

Estimate = tuple[float, float | None, float | None]
# The largest value each can have.
TOPS = {
    "nll": float("inf"),
    "brier": 2.0,
    "ece": 1.0,
    "ece_mass": 1.0,
    "ece_classwise": 1.0,
    "rmsce": 1.0,
    "mce": 1.0,
    "smooth_ece": 1.0,
    "brier_reliability": 2.0,
    "brier_resolution": 1.0,
    "brier_uncertainty": 1.0,
}
_BINNED = {"ece": ("l1", "width"), "ece_mass": ("l1", "mass"), "rmsce": ("l2", "width"), "mce": ("max", "width")}
_OF_CLASSES = ("ece_classwise", "brier_reliability", "brier_resolution", "brier_uncertainty")
# Sums over classes and bins of this many values are held at once.
_AT_ONCE = 1 << 24

# Without bias they need two halves with something in each.
_FEWEST = 4

Statistics = Callable[[Tensor], dict[str, Tensor]]


def column_summary(
    confidence: Tensor,
    correct: Tensor,
    nll: Tensor,
    brier: Tensor,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """What can be told of calibration from per-image columns `[N]`: see `calibration_summary`, without the classes.

    `confidence` in [0, 1] and `correct` (bool or 0/1) of the top prediction, `nll` and `brier` of each image. The keys
    are nll, brier, ece, ece_mass, rmsce, mce and smooth_ece. Raises ValueError for no samples or a confidence that is
    no probability.
    """
    values, statistics, about = _columns(confidence, correct, nll, brier, bins, seed if resamples else None)
    return _estimates(values, [statistics], about, len(confidence), resamples, seed)


def calibration_summary(
    probs: Tensor, labels: Tensor, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> dict[str, Estimate]:
    """Every calibration measure of probabilities `[N, C]` and labels `[N]`, as name to (value, low, high).

    The names are nll, brier, ece, ece_mass (bins of equal mass), ece_classwise, rmsce, mce, smooth_ece,
    brier_reliability, brier_resolution and brier_uncertainty; all pooled over the set. Low and high are the 95 % basic
    bootstrap interval, clipped to the values the measure can have, and None for `resamples=0`; that of ece, ece_mass
    and smooth_ece lies about the error without its bias (see `cross_fitted_error`), widened where needed to hold the
    value. The same size and seed draw the same resamples, so intervals of two models on one set are paired. Raises
    ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    # Resampling is matrix products of one set: the CPU does them, in float32.
    probs, labels = probs.detach().cpu().float(), labels.cpu().long()
    confidence, predicted = probs.max(dim=1)
    columns = (confidence.clamp(max=1), predicted == labels, nll_per_sample(probs, labels))
    values, of_columns, about = _columns(*columns, brier_per_sample(probs, labels), bins, seed if resamples else None)
    values |= {k: float(v) for k, v in _class_statistics(class_sums(probs, labels, bins)).items()}
    statistics = [of_columns]
    if resamples:
        sums = class_resampler(probs, labels, bins)
        rows = max(1, _AT_ONCE // (3 * probs.shape[1] * bins))

        def of_classes(weights: Tensor) -> dict[str, Tensor]:
            blocks = [_class_statistics(sums(block)) for block in weights.split(rows)]
            return {name: torch.cat([block[name] for block in blocks]) for name in _OF_CLASSES}

        statistics.append(of_classes)
    return _estimates(values, statistics, about, len(labels), resamples, seed)


def _class_statistics(sums: Tensor) -> dict[str, Tensor]:
    parts = brier_parts(sums, sums.new_zeros(()))
    return dict(zip(_OF_CLASSES, (classwise_error(sums), *parts[:3]), strict=True))


def _columns(
    confidence: Tensor, correct: Tensor, nll: Tensor, brier: Tensor, bins: int, seed: int | None
) -> tuple[dict[str, float], Statistics, dict[str, float]]:
    """The values, the function of resamples, and by name the centre of those that are not about their value."""
    confidence, correct = confidence.detach().cpu(), correct.cpu()
    means = torch.stack([nll.detach().cpu().double(), brier.detach().cpu().double()], 1)
    values = {"smooth_ece": float(smooth_error(confidence, correct))}
    values |= dict(zip(("nll", "brier"), means.mean(0).tolist(), strict=True))
    for name, (norm, binning) in _BINNED.items():
        values[name] = float(binned_error(bin_sums(confidence, correct, bins, binning), norm))
    fitted: dict[str, CrossFitted] = {}
    if seed is not None and len(confidence) >= _FEWEST:
        splits = halves(len(confidence), seed=seed)
        fitted = {
            "ece": cross_fitted_error(confidence, correct, bins, "width", splits),
            "ece_mass": cross_fitted_error(confidence, correct, bins, "mass", splits),
            "smooth_ece": cross_fitted_smooth_error(confidence, correct, splits),
        }
    names = ["nll", "brier", *fitted]
    linear = torch.cat([means, *(f.influence[:, None] - f.influence.mean() + f.value for f in fitted.values())], 1)
    linear = linear.float()
    rest = {name: how for name, how in _BINNED.items() if name not in fitted}

    def statistics(weights: Tensor) -> dict[str, Tensor]:
        found = dict(zip(names, (weights @ linear / len(confidence)).unbind(1), strict=True))
        for name, (norm, binning) in rest.items():
            found[name] = resampled_error(confidence, correct, weights, bins, norm, binning)
        if "smooth_ece" not in found:
            found["smooth_ece"] = resampled_smooth_error(confidence, correct, weights)
        return found

    return values, statistics, {name: float(f.value) for name, f in fitted.items()}


def _estimates(
    values: dict[str, float],
    statistics: list[Statistics],
    about: dict[str, float],
    size: int,
    resamples: int,
    seed: int,
) -> dict[str, Estimate]:
    names = [name for name in TOPS if name in values]
    if resamples == 0:
        return {name: (values[name], None, None) for name in names}
    blocks = []
    for weights in draw(size, resamples, seed):
        found = {name: drawn for statistic in statistics for name, drawn in statistic(weights).items()}
        blocks.append(torch.stack([found[name] for name in names], 1))
    centre = torch.tensor([about.get(name, values[name]) for name in names], dtype=torch.float64)
    bounds = interval(torch.cat(blocks), centre).tolist()
    return {
        name: (values[name], max(min(low, values[name]), 0.0), min(max(high, values[name]), TOPS[name]))
        for name, (low, high) in zip(names, bounds, strict=True)
    }
