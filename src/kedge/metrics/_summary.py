"""From samples to numbers with intervals: all metrics on resamples that they share."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.metrics._base import Answers, Metric, metrics
from kedge.metrics._bootstrap import resamples as draw
from kedge.metrics._checks import check_confidence, check_probs
from kedge.metrics._classification import brier_per_sample, nll_per_sample
from kedge.metrics._results import Triple

FEWEST = 20  # images; a bootstrap of fewer says more about the bootstrap than about the model
FAMILY = (
    "nll", "brier", "ece", "ece_mass", "ece_classwise", "rmsce", "mce", "smooth_ece", "brier_reliability",
    "brier_resolution", "brier_uncertainty",
)  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What M metrics are on J samples.

    Attributes:
        samples: J of them.
        metrics: M of them.
        values: `[J, M]` float64, as they are reported.
        centers: `[J, M]` float64, the same without the bias that a calibration error has: what is compared. NaN for
            the calibration errors of too few images.
        draws: `[n, J, M]`, `centers` on n resamples, NaN for metrics that have none; None: too few images.
    """

    samples: Sequence[Answers]
    metrics: Sequence[Metric]
    values: Tensor
    centers: Tensor
    draws: Tensor | None

    def of(self, chosen: Sequence[int]) -> "Numbers":
        """Those of the samples at the places `chosen`."""
        places = list(chosen)
        draws = None if self.draws is None else self.draws[:, places]
        samples = [self.samples[j] for j in places]
        return Numbers(samples, self.metrics, self.values[places], self.centers[places], draws)

    def results(self) -> dict[str, Any]:
        """Key to what stands in results.json: of one sample, or the mean over samples."""
        draws = None if self.draws is None else self.draws.mean(dim=1)
        values, centers = self.values.mean(dim=0).tolist(), self.centers.mean(dim=0).tolist()
        entries = {}
        for m, metric in enumerate(self.metrics):
            own = None if draws is None or bool(draws[0, m].isnan()) else draws[:, m]
            if len(self.samples) > 1:
                entries[metric.key] = metric.mean(self.samples, values[m], centers[m], own).to_json()
            else:
                entries[metric.key] = metric.result(self.samples[0], values[m], centers[m], own).to_json()
        return entries


def numbers(samples: Sequence[Answers], of: Sequence[Metric]) -> Numbers:
    """Metrics of J samples, and on the resamples that samples of one size share.

    Sharing the resamples makes means over samples, and comparisons of models on the same images, paired. No resamples
    where none were asked for, and of so few images that they would mean nothing.
    """
    values = torch.tensor([[metric.value(sample) for metric in of] for sample in samples], dtype=torch.float64)
    centers = values.clone()
    for j, sample in enumerate(samples):
        for m, metric in enumerate(of):
            if metric.unbiased and len(sample) < FEWEST:
                centers[j, m] = torch.nan
            elif (center := metric.center(sample)) is not None:
                centers[j, m] = center
    few = samples[0].n == 0 or min(map(len, samples)) < FEWEST
    return Numbers(samples, of, values, centers, None if few else drawn(samples, of))


def drawn(samples: Sequence[Answers], of: Sequence[Metric]) -> Tensor:
    """`[n, J, M]` float64 of the metrics on resamples; NaN for those that have none.

    What is a mean over images is one product of matrices for all samples of a size.
    """
    n, seed = samples[0].n, samples[0].seed
    draws = torch.full((n, len(samples), len(of)), torch.nan, dtype=torch.float64)
    for size in dict.fromkeys(map(len, samples)):  # published sets need not have as many images as the clean one
        means, others = [], []
        for j, sample in enumerate(samples):
            for m, metric in enumerate(of) if len(sample) == size else ():
                if (each := metric.per_image(sample)) is not None:
                    means.append((j, m, each.float()))
                elif (resampled := metric.resampled(sample)) is not None:
                    others.append((j, m, resampled))
        if not means and not others:
            continue
        matrix = torch.stack([each for *_, each in means], dim=1) if means else torch.empty(size, 0)
        places = [j for j, *_ in means], [m for _, m, _ in means]
        start = 0
        for weights in draw(size, n, seed):
            rows = slice(start, start + len(weights))
            start += len(weights)
            draws[rows, places[0], places[1]] = (weights @ matrix / size).double()
            for j, m, resampled in others:
                draws[rows, j, m] = resampled(weights).double()
    return draws


def column_summary(
    confidence: Tensor,
    correct: Tensor,
    nll: Tensor,
    brier: Tensor,
    bins: int = 15,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Triple]:
    """What can be told of calibration from per-image columns `[N]`: see `calibration_summary`, without the classes.

    `confidence` in [0, 1] and `correct` (bool or 0/1) of the top prediction, `nll` and `brier` of each image. The keys
    are nll, brier, ece, ece_mass, rmsce, mce and smooth_ece. Raises ValueError for no samples or a confidence that is
    no probability.
    """
    check_confidence(confidence, correct)
    columns = {"confidence": confidence, "rank": (correct == 0).long(), "nll": nll, "brier": brier}
    columns = {name: column.detach().cpu() for name, column in columns.items()}
    return _family(Answers(columns, bins=bins, n=resamples, seed=seed), probs=False)


def calibration_summary(
    probs: Tensor, labels: Tensor, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> dict[str, Triple]:
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
    columns = {
        "confidence": confidence.clamp(max=1),
        "rank": (predicted != labels).long(),
        "nll": nll_per_sample(probs, labels),
        "brier": brier_per_sample(probs, labels),
    }
    return _family(Answers(columns, probs, labels, bins, resamples, seed), probs=True)


def _family(sample: Answers, probs: bool) -> dict[str, Triple]:
    of = [metric for metric in metrics() if metric.name in FAMILY and (probs or not metric.probs)]
    draws = drawn([sample], of) if sample.n else None
    estimates = {}
    for m, metric in enumerate(of):
        value = metric.value(sample)
        center = metric.center(sample) if draws is not None else None
        own = None if draws is None else draws[:, 0, m]
        estimates[metric.name] = metric.estimate(value, value if center is None else center, own, len(sample))
    return {name: (estimates[name].value or 0.0, estimates[name].low, estimates[name].high)
            for name in FAMILY if name in estimates}  # fmt: skip
