"""From what was measured per image to metrics with intervals."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kedge.metrics import (
    accuracy_interval,
    bin_sums,
    binned_error,
    calibration_summary,
    cross_fitted_error,
    cross_fitted_smooth_error,
    halves,
    interval,
    reliability,
    resamples,
    smooth_error,
)

Columns = dict[str, Tensor]
METRICS = ("accuracy", "nll", "brier", "ece", "smooth_ece")
CALIBRATION = ("ece", "smooth_ece")  # the last two, whose plug-in value is biased
TOPS = {"accuracy": 1.0, "nll": None, "brier": 2.0, "ece": 1.0, "smooth_ece": 1.0}
FEWEST = 20  # images; a bootstrap of fewer says more about the bootstrap than about the model


def estimate(
    value: float | None, low: float | None = None, high: float | None = None, top: float | None = None
) -> dict:
    """A value with its 95 % interval (None: not computed), clipped to 0..`top`."""
    if low is not None and high is not None:
        low, high = max(low, 0.0), high if top is None else min(high, top)
    return {"value": value, "low": low, "high": high}


def values_of(columns: Columns, bins: int) -> Tensor:
    """`[5]` float64: accuracy, NLL, Brier, ECE and smooth ECE."""
    correct = columns["rank"] == 0
    error = binned_error(bin_sums(columns["confidence"], correct, bins)).double()
    means = [correct.double().mean(), columns["nll"].double().mean(), columns["brier"].double().mean()]
    smooth = torch.as_tensor(smooth_error(columns["confidence"], correct)).double()
    return torch.stack([*means, error, smooth])


class Drawn(NamedTuple):
    """The five metrics of J conditions.

    Attributes:
        values: `[J, 5]` float64, as they are reported.
        corrected: `[J, 5]` float64, the same without the bias that a calibration error has: what is compared. NaN for
            the calibration errors of too few images.
        draws: `[n, J, 5]`, `corrected` on n resamples; None: there are none.
    """

    values: Tensor
    corrected: Tensor
    draws: Tensor | None

    def of(self, chosen: Sequence[int]) -> "Drawn":
        """The conditions at the places `chosen`."""
        places = list(chosen)
        return Drawn(self.values[places], self.corrected[places], None if self.draws is None else self.draws[:, places])


def draw(conditions: Sequence[Columns], bins: int, n: int, seed: int) -> Drawn:
    """The metrics of J conditions, and on n resamples, which conditions of one size share.

    Sharing the resamples makes means over conditions, and comparisons of models on the same images, paired. No
    resamples for n = 0, and for so few images that they would mean nothing. A calibration error moves with the
    resamples as its influence says: the plug-in errors of resamples are those of noise on top of noise.
    """
    values = torch.stack([values_of(columns, bins) for columns in conditions])
    corrected = values.clone()
    sizes = [len(columns["rank"]) for columns in conditions]
    draws = None if n == 0 or min(sizes) < FEWEST else torch.empty(n, len(conditions), len(METRICS))
    for size in set(sizes):  # published sets need not have as many images as the clean one, or as each other
        places = [j for j, own in enumerate(sizes) if own == size]
        splits = halves(size, seed=seed) if size >= FEWEST else None
        columns = []
        for j in places:
            each, corrected[j, -2:] = _per_image(conditions[j], bins, splits)
            columns.append(each)
        if draws is not None:
            each = torch.cat(columns, dim=1).float()
            drawn = torch.cat([weights @ each / size for weights in resamples(size, n, seed)])
            draws[:, places] = drawn.view(n, len(places), len(METRICS))
    return Drawn(values, corrected, draws)


def _per_image(columns: Columns, bins: int, splits: Tensor | None) -> tuple[Tensor, Tensor]:
    """`[N, 5]`, whose means are the metrics, and `[2]`, ECE and smooth ECE without bias (NaN without splits)."""
    correct = columns["rank"] == 0
    means = [correct.double(), columns["nll"].double(), columns["brier"].double()]
    if splits is None:
        return torch.stack([*means, *means[:2]], dim=1), torch.full((2,), torch.nan, dtype=torch.float64)
    errors = (
        cross_fitted_error(columns["confidence"], correct, bins, splits=splits),
        cross_fitted_smooth_error(columns["confidence"], correct, splits),
    )
    influences = [e.influence - e.influence.mean() + e.value for e in errors]
    return torch.stack([*means, *influences], dim=1), torch.stack([e.value for e in errors])


def estimates(drawn: Drawn) -> dict[str, dict]:
    """The five metrics with bootstrap intervals, their means over the conditions of `drawn`.

    A calibration error also has `corrected`, by which it is compared and about which its interval lies, widened where
    needed to hold the value.
    """
    values, corrected = drawn.values.mean(dim=0), drawn.corrected.mean(dim=0)
    rows = {name: estimate(value) for name, value in zip(METRICS, values.tolist(), strict=True)}
    if drawn.draws is not None:
        ends = interval(drawn.draws.double().mean(dim=1), corrected)
        low, high = torch.minimum(ends[:, 0], values).tolist(), torch.maximum(ends[:, 1], values).tolist()
        for i, (name, one) in enumerate(rows.items()):
            rows[name] = estimate(one["value"], low[i], high[i], TOPS[name])
    for name in CALIBRATION:
        unbiased = float(corrected[METRICS.index(name)])
        rows[name]["corrected"] = unbiased if math.isfinite(unbiased) else None
    return rows


def exact_accuracy(columns: Columns, most: int = 1) -> dict:
    """Accuracy (top-`most`) with Wilson's interval, which needs no resampling."""
    correct, total = int((columns["rank"] < most).sum()), len(columns["rank"])
    return estimate(correct / total, *accuracy_interval(correct, total))


def clean_summary(
    columns: Columns, logits: Tensor, labels: Tensor, found: dict[str, dict], bins: int, n: int, seed: int
) -> dict[str, Any]:
    """Metrics, calibration errors and reliability diagram on clean images; `found` has the metrics of `draw`."""
    summary: dict[str, Any] = {**found, "accuracy": exact_accuracy(columns)}
    # Among five classes or fewer the true one is always in the first five.
    summary["top5"] = exact_accuracy(columns, 5) if logits.shape[1] > 5 else None
    summary["reliability"] = reliability(bin_sums(columns["confidence"], columns["rank"] == 0, bins))
    few = len(labels) < FEWEST
    every = calibration_summary(logits.softmax(dim=1), labels, bins=bins, resamples=0 if few else n, seed=seed)
    summary["calibration"] = {name: estimate(*values) for name, values in every.items() if name not in METRICS[:4]}
    return summary


def shift_summary(
    conditions: dict[tuple[str, int], Columns],
    failed: list[tuple[str, int]],
    drawn: Drawn,
    bins: int,
) -> dict[str, Any] | None:
    """Metrics under each corruption, mean by severity and overall; `drawn` is of the conditions.

    A mean over conditions of which one failed is no mean: its values are None.
    """
    if not conditions and not failed:
        return None
    keys = list(conditions)
    rows: list[dict[str, Any]] = []
    for j, (corruption, severity) in enumerate(keys):
        found = estimates(drawn.of([j]))
        found["accuracy"] = exact_accuracy(conditions[corruption, severity])
        rows.append({"corruption": corruption, "severity": severity, **found})

    def mean(chosen: list[int], lost: bool) -> dict[str, dict]:
        if lost or not chosen:
            return {name: estimate(None) for name in METRICS}
        if len(chosen) == 1:
            return {name: rows[chosen[0]][name] for name in METRICS}
        return estimates(drawn.of(chosen))

    severities = sorted({severity for _, severity in [*keys, *failed]})
    sums = [bin_sums(c["confidence"], c["rank"] == 0, bins) for c in conditions.values()]
    return {
        "mean": mean(list(range(len(keys))), bool(failed)),
        "by_severity": [
            {
                "severity": s,
                **mean([j for j, key in enumerate(keys) if key[1] == s], any(f[1] == s for f in failed)),
            }
            for s in severities
        ],
        "conditions": rows,
        "reliability": reliability(torch.stack(sums).sum(dim=0)) if sums else None,
    }
