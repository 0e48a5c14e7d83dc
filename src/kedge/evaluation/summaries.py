"""From what was measured per image to metrics with intervals."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.metrics import (
    accuracy_interval,
    bin_sums,
    binned_error,
    calibration_summary,
    interval,
    reliability,
    resampled_error,
    resampled_smooth_error,
    resamples,
    smooth_error,
)

Columns = dict[str, Tensor]
METRICS = ("accuracy", "nll", "brier", "ece", "smooth_ece")
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


def draw(conditions: Sequence[Columns], bins: int, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Values `[J, 5]` of J conditions, and their values `[n, J, 5]` on n resamples, shared by conditions of one size.

    Sharing the resamples makes means over conditions, and comparisons of models on the same images, paired. No
    resamples for n = 0, and for so few images that they would mean nothing.
    """
    values = torch.stack([values_of(columns, bins) for columns in conditions])
    sizes = [len(columns["rank"]) for columns in conditions]
    if n == 0 or min(sizes) < FEWEST:
        return values, None
    draws = torch.empty(n, len(conditions), len(METRICS))
    for size in set(sizes):  # published sets need not have as many images as the clean one, or as each other
        places = [j for j, own in enumerate(sizes) if own == size]
        draws[:, places] = _drawn([conditions[j] for j in places], bins, n, seed, size)
    return values, draws


def _drawn(conditions: Sequence[Columns], bins: int, n: int, seed: int, size: int) -> Tensor:
    """`[n, J, 5]` for conditions of `size` images each."""
    blocks = []
    for weights in resamples(size, n, seed):
        weights = weights.T.contiguous().T  # as `resampled_sums` reads them, once for all conditions
        rows = []
        for columns in conditions:
            correct = (columns["rank"] == 0).float()
            means = weights @ torch.stack([correct, columns["nll"], columns["brier"]], dim=1) / size
            error = resampled_error(columns["confidence"], correct, weights, bins)
            smooth = resampled_smooth_error(columns["confidence"], correct, weights).to(error)
            rows.append(torch.cat([means, error[:, None], smooth[:, None]], dim=1))
        blocks.append(torch.stack(rows, dim=1))
    return torch.cat(blocks)


def estimates(values: Tensor, draws: Tensor | None) -> dict[str, dict]:
    """The five metrics with bootstrap intervals, from values `[5]` and draws `[n, 5]`."""
    if draws is None:
        return {name: estimate(value) for name, value in zip(METRICS, values.tolist(), strict=True)}
    return {
        name: estimate(value, low, high, TOPS[name])
        for name, value, (low, high) in zip(METRICS, values.tolist(), interval(draws, values).tolist(), strict=True)
    }


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
    values: Tensor,
    draws: Tensor | None,
    bins: int,
) -> dict[str, Any] | None:
    """Metrics under each corruption, mean by severity and overall; `values` `[J, 5]`, `draws` `[n, J, 5]`.

    A mean over conditions of which one failed is no mean: its values are None.
    """
    if not conditions and not failed:
        return None
    keys = list(conditions)
    rows: list[dict[str, Any]] = []
    for j, (corruption, severity) in enumerate(keys):
        found = estimates(values[j], None if draws is None else draws[:, j])
        found["accuracy"] = exact_accuracy(conditions[corruption, severity])
        rows.append({"corruption": corruption, "severity": severity, **found})

    def mean(chosen: list[int], lost: bool) -> dict[str, dict]:
        if lost or not chosen:
            return {name: estimate(None) for name in METRICS}
        if len(chosen) == 1:
            return {name: rows[chosen[0]][name] for name in METRICS}
        return estimates(values[chosen].mean(dim=0), None if draws is None else draws[:, chosen].mean(dim=1))

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
