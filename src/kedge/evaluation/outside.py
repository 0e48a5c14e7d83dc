"""Separating in-distribution from out-of-distribution images: scores, histograms, what would be accepted."""

from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.summaries import estimate
from kedge.metrics import auroc, auroc_interval, fpr95
from kedge.scores import Score

HISTOGRAM_BINS = 30


def _edges(parts: list[Tensor]) -> Tensor:
    """`[HISTOGRAM_BINS + 1]` over all but the outermost 1 % of the scores; what lies outside goes to the end bins."""
    ordered = torch.cat(parts).double().sort().values
    last = len(ordered) - 1
    low, high = float(ordered[round(0.005 * last)]), float(ordered[round(0.995 * last)])
    if not low < high:
        low, high = low - 0.5, high + 0.5
    return torch.linspace(low, high, HISTOGRAM_BINS + 1, dtype=torch.float64)


def _counts(values: Tensor, edges: Tensor) -> list[int]:
    index = torch.bucketize(values.double(), edges[1:-1])
    return torch.bincount(index, minlength=HISTOGRAM_BINS).tolist()


def outside_summary(
    clean: dict[str, Tensor], outside: dict[str, dict[str, Tensor]], scores: list[Score], threshold: float | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """(scores, ood): histograms of the scores on clean images, and per set and score AUROC, FPR95 and histogram.

    `clean` and each of `outside` map column names to `[N]`. A score that this model does not have is left out.
    """
    found: dict[str, Any] = {}
    ood: dict[str, Any] = {name: {"scores": {}, "accepted": None} for name in outside}
    for score in scores:
        column = f"score:{score.name}"
        if column not in clean or not outside:
            continue
        edges = _edges([clean[column], *(columns[column] for columns in outside.values())])
        found[score.name] = {"title": score.title, "edges": edges.tolist(), "inside": _counts(clean[column], edges)}
        for name, columns in outside.items():
            ood[name]["scores"][score.name] = {
                "auroc": estimate(
                    float(auroc(clean[column], columns[column])), *auroc_interval(clean[column], columns[column])
                ),
                "fpr95": float(fpr95(clean[column], columns[column])),
                "outside": _counts(columns[column], edges),
            }
    if threshold is not None:
        for name, columns in outside.items():
            kept = columns["confidence"] >= torch.tensor(threshold, dtype=torch.float32)
            ood[name]["accepted"] = float(kept.double().mean())
    return found, ood
