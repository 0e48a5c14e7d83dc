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
    threshold_for_risk,
)
from kedge.metrics.selective import accuracy_of_answered
from kedge.rejection import answered, rule_from

Columns = dict[str, Tensor]
POINTS = 200  # of a curve


def selective_summary(
    rule: Mapping[str, Any] | None,
    clean: Columns,
    shifted: Sequence[Columns],
    outside: Mapping[str, Tensor],
    beside: Columns,
    risk: float,
    n: int,
    seed: int,
) -> dict[str, Any]:
    """Risk and coverage by confidence on clean images, on all shifted ones together, and with each unfamiliar set.

    Images are ranked by the log odds of their confidence. `rule` is the model's reject rule by confidence, or None:
    with one also coverage and accuracy where it answers. `outside` has log odds `[M]`, and `beside` what clean images
    gave in the form in which they are compared with those.
    """
    together = (
        {name: torch.cat([c[name] for c in shifted]) for name in ("confidence", "log_odds", "rank")}
        if len(shifted)
        else None
    )

    def at(columns: Columns | None) -> dict[str, float | None] | None:
        if rule is None or columns is None:
            return None
        kept = answered(rule, columns["confidence"], columns["log_odds"])
        coverage, accuracy = accuracy_of_answered(kept, columns["rank"] == 0)
        return {"coverage": coverage, "accuracy": accuracy}

    odds, correct = clean["log_odds"], clean["rank"] == 0
    few = len(odds) < FEWEST or n == 0
    low, high = (None, None) if few else aurc_interval(odds, correct, n=n, seed=seed)
    # Of a handful of images a share of risk says nothing.
    limit, coverage = (None, None) if len(odds) < FEWEST else threshold_for_risk(odds, correct, risk)
    at_risk = {"threshold": None, "log_odds": None} if limit is None else rule_from(limit)
    stored = rule or {}
    return {
        "score": "confidence",
        "threshold": float(stored["threshold"]) if rule else None,
        "log_odds": stored.get("log_odds"),
        "wanted_coverage": stored.get("coverage"),
        "clean": at(clean),
        "shift": at(together),
        "aurc": estimate(float(aurc(odds, correct)), low, high, 1.0),
        "excess_aurc": estimate(float(excess_aurc(odds, correct))),
        "at_risk": {"risk": risk, "coverage": coverage, **at_risk},
        "curve": {"clean": _curve(clean), "shift": None if together is None else _curve(together)},
        "joint": {name: _joint(beside["log_odds"], beside["rank"] == 0, away) for name, away in outside.items()},
    }


def _curve(columns: Columns) -> dict[str, list[float]]:
    return _thinned(*risk_coverage(columns["log_odds"], columns["rank"] == 0))


def _joint(odds: Tensor, correct: Tensor, outside: Tensor) -> dict[str, Any]:
    coverage, risk = joint_risk_coverage(odds, correct, outside)
    merged = torch.cat([correct, torch.zeros(len(outside), dtype=torch.bool)])
    return {**_thinned(coverage, risk), "aurc": float(aurc(torch.cat([odds, outside]), merged))}


def _thinned(coverage: Tensor, risk: Tensor) -> dict[str, list[float]]:
    """At most `POINTS` points of a curve, both ends among them."""
    index = torch.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).round().long().unique()
    curves = {"coverage": coverage[index], "risk": risk[index]}
    return {name: [round(value, 5) for value in values.tolist()] for name, values in curves.items()}
