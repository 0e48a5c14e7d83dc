"""From what was measured per image to metrics with intervals."""

from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.passes import Condition
from kedge.metrics import (
    accuracy_interval,
    bin_sums,
    binned_error,
    interval,
    reliability,
    resampled_error,
    resamples,
    selective_accuracy,
)

Columns = dict[str, Tensor]
METRICS = ("accuracy", "nll", "brier", "ece")
TOPS = {"accuracy": 1.0, "nll": None, "brier": 2.0, "ece": 1.0}


def estimate(value: float, low: float | None = None, high: float | None = None, top: float | None = None) -> dict:
    """A value with its 95 % interval (None: not computed), clipped to 0..`top`."""
    if low is not None and high is not None:
        low, high = max(low, 0.0), high if top is None else min(high, top)
    return {"value": value, "low": low, "high": high}


def _values(columns: Columns, bins: int) -> Tensor:
    """`[4]` float64: accuracy, NLL, Brier and ECE."""
    correct = columns["rank"] == 0
    error = binned_error(bin_sums(columns["confidence"], correct, bins)).double()
    means = [correct.double().mean(), columns["nll"].double().mean(), columns["brier"].double().mean()]
    return torch.stack([*means, error])


def draw(conditions: dict[Condition, Columns], bins: int, n: int, seed: int) -> tuple[Tensor, Tensor | None]:
    """Values `[J, 4]` of J conditions over the same images, and their values `[n, J, 4]` on n shared resamples.

    Sharing the resamples makes means over conditions, and comparisons of models on the same images, paired.
    """
    values = torch.stack([_values(columns, bins) for columns in conditions.values()])
    if n == 0:
        return values, None
    size = len(next(iter(conditions.values()))["rank"])
    blocks = []
    for weights in resamples(size, n, seed):
        rows = []
        for columns in conditions.values():
            correct = (columns["rank"] == 0).float()
            means = weights @ torch.stack([correct, columns["nll"], columns["brier"]], dim=1) / size
            error = resampled_error(columns["confidence"], correct, weights, bins)
            rows.append(torch.cat([means, error[:, None]], dim=1))
        blocks.append(torch.stack(rows, dim=1))
    return values, torch.cat(blocks)


def estimates(values: Tensor, draws: Tensor | None) -> dict[str, dict]:
    """Accuracy, NLL, Brier and ECE with bootstrap intervals, from values `[4]` and draws `[n, 4]`."""
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


def clean_summary(columns: Columns, values: Tensor, draws: Tensor | None, classes: int, bins: int) -> dict[str, Any]:
    """Metrics and reliability diagram on clean images."""
    summary: dict[str, Any] = estimates(values, draws)
    summary["accuracy"] = exact_accuracy(columns)
    # Among five classes or fewer the true one is always in the first five.
    summary["top5"] = exact_accuracy(columns, 5) if classes > 5 else None
    summary["reliability"] = reliability(bin_sums(columns["confidence"], columns["rank"] == 0, bins))
    return summary


def shift_summary(
    conditions: dict[tuple[str, int], Columns], values: Tensor, draws: Tensor | None, bins: int
) -> dict[str, Any] | None:
    """Metrics under each corruption, mean by severity and overall; `values` `[J, 4]`, `draws` `[n, J, 4]`."""
    if not conditions:
        return None
    keys = list(conditions)
    rows: list[dict[str, Any]] = []
    for j, (corruption, severity) in enumerate(keys):
        found = estimates(values[j], None if draws is None else draws[:, j])
        found["accuracy"] = exact_accuracy(conditions[corruption, severity])
        rows.append({"corruption": corruption, "severity": severity, **found})

    def mean(chosen: list[int]) -> dict[str, dict]:
        if len(chosen) == 1:
            return {name: rows[chosen[0]][name] for name in METRICS}
        return estimates(values[chosen].mean(dim=0), None if draws is None else draws[:, chosen].mean(dim=1))

    severities = sorted({severity for _, severity in keys})
    sums = torch.stack([bin_sums(c["confidence"], c["rank"] == 0, bins) for c in conditions.values()]).sum(dim=0)
    return {
        "mean": mean(list(range(len(keys)))),
        "by_severity": [{"severity": s, **mean([j for j, key in enumerate(keys) if key[1] == s])} for s in severities],
        "conditions": rows,
        "reliability": reliability(sums),
    }


def selective_summary(reject: dict[str, Any] | None, clean: Columns, shifted: list[Columns]) -> dict[str, Any] | None:
    """Coverage and accuracy at the model's stored threshold, on clean images and on all shifted ones together."""
    if not reject or reject.get("threshold") is None or reject.get("score", "confidence") != "confidence":
        return None
    threshold = float(reject["threshold"])

    def at(confidence: Tensor, rank: Tensor) -> dict[str, float | None]:
        coverage, accuracy = selective_accuracy(confidence, rank == 0, threshold)
        return {"coverage": coverage, "accuracy": accuracy}

    together = (
        at(torch.cat([c["confidence"] for c in shifted]), torch.cat([c["rank"] for c in shifted])) if shifted else None
    )
    return {
        "score": "confidence",
        "threshold": threshold,
        "wanted_coverage": reject.get("coverage"),
        "clean": at(clean["confidence"], clean["rank"]),
        "shift": together,
    }
