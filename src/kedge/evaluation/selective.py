"""Answering only when confident: what is gained, at which threshold, and what it does with unfamiliar images."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.summaries import FEWEST, estimate
from kedge.metrics import (
    aurc,
    aurc_interval,
    excess_aurc,
    joint_risk_coverage,
    risk_coverage,
    selective_accuracy,
    threshold_for_risk,
)

Columns = dict[str, Tensor]
POINTS = 200  # of a curve


def selective_summary(
    reject: dict[str, Any] | None,
    clean: Columns,
    shifted: Sequence[Columns],
    outside: Mapping[str, Tensor],
    beside: Columns,
    risk: float,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """Risk and coverage by confidence on clean images, on all shifted ones together, and with each unfamiliar set.

    Coverage and accuracy at the model's stored threshold where it has one. `outside` has the confidences `[M]`,
    and `beside` what clean images gave in the form in which they are compared with those.
    """
    together = (
        {name: torch.cat([c[name] for c in shifted]) for name in ("confidence", "rank")} if len(shifted) else None
    )
    threshold = None
    if reject and reject.get("threshold") is not None and reject.get("score", "confidence") == "confidence":
        threshold = float(reject["threshold"])

    def at(columns: Columns | None) -> dict[str, float | None] | None:
        if threshold is None or columns is None:
            return None
        coverage, accuracy = selective_accuracy(columns["confidence"], columns["rank"] == 0, threshold)
        return {"coverage": coverage, "accuracy": accuracy}

    confidence, correct = clean["confidence"], clean["rank"] == 0
    few = len(confidence) < FEWEST or n == 0
    low, high = (None, None) if few else aurc_interval(confidence, correct, n=n, seed=seed)
    # Of a handful of images a share of risk says nothing.
    limit, coverage = (None, None) if len(confidence) < FEWEST else threshold_for_risk(confidence, correct, risk)
    return {
        "score": "confidence",
        "threshold": threshold,
        "wanted_coverage": (reject or {}).get("coverage") if threshold is not None else None,
        "clean": at(clean),
        "shift": at(together),
        "aurc": estimate(float(aurc(confidence, correct)), low, high, 1.0),
        "excess_aurc": estimate(float(excess_aurc(confidence, correct))),
        "at_risk": {"risk": risk, "coverage": coverage, "threshold": limit},
        "curve": {"clean": _curve(clean), "shift": None if together is None else _curve(together)},
        "joint": {name: _joint(beside["confidence"], beside["rank"] == 0, away) for name, away in outside.items()},
    }


def _curve(columns: Columns) -> dict[str, list[float]]:
    return _thinned(*risk_coverage(columns["confidence"], columns["rank"] == 0))


def _joint(confidence: Tensor, correct: Tensor, outside: Tensor) -> dict[str, Any]:
    coverage, risk = joint_risk_coverage(confidence, correct, outside)
    merged = torch.cat([correct, torch.zeros(len(outside), dtype=torch.bool)])
    return {**_thinned(coverage, risk), "aurc": float(aurc(torch.cat([confidence, outside]), merged))}


def _thinned(coverage: Tensor, risk: Tensor) -> dict[str, list[float]]:
    """At most `POINTS` points of a curve, both ends among them."""
    index = torch.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).round().long().unique()
    curves = {"coverage": coverage[index], "risk": risk[index]}
    return {name: [round(value, 5) for value in values.tolist()] for name, values in curves.items()}
