"""Separating in-distribution from out-of-distribution images: scores, detection metrics, histograms, ROC curves."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.confidence import log_odds
from kedge.evaluation.comparing import Share
from kedge.metrics import linear_separability, roc_curve
from kedge.metrics._base import Detection, Separation, metrics
from kedge.metrics._detection import placements
from kedge.metrics._results import Estimate
from kedge.metrics._summary import FEWEST
from kedge.rejection import answered
from kedge.scores import Outputs, Score

HISTOGRAM_BINS = 30
# Why a model may lack what a score reads.
LACKING = {
    "uncertainty": "there is no disagreement between references: the model is not anchored, or was asked with one",
    "reference_spread": "there is no disagreement between references: the model is not anchored, or was asked with one",
    "unnormalised": "the model gives log probabilities, as the mean of several models does: their energy is always 0",
    "masked": "there are no masked passes: the model is not anchored",
    "reverse": "no image can be the reference of others: the model is not anchored",
    "features": "no affine last layer was found in the model, so there are no features",
    "head": "no affine last layer was found in the model",
    "images": "it reads images itself: use it from Python",
}


def ready(
    scores: Sequence[Score], fields: frozenset[str], training: tuple[Outputs, Tensor] | None, why_no_training: str
) -> tuple[list[Score], dict[str, str]]:
    """(the scores that this model can be asked for, fitted; name to reason of the others)."""
    usable: list[Score] = []
    skipped: dict[str, str] = {}
    for score in scores:
        lacking = [need for need in score.needs if need not in fields]
        if lacking:
            skipped[score.name] = LACKING.get(lacking[0], f"the model gives no {lacking[0]}")
        elif score.fits and training is None:
            skipped[score.name] = why_no_training
        else:
            try:
                usable.append(score.fit(*training) if score.fits and training is not None else score)
            except ValueError as error:
                skipped[score.name] = str(error)
    return usable, skipped


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
    inside: Outputs,
    outside: Mapping[str, Outputs],
    scores: Sequence[Score],
    rule: Mapping[str, Any] | None,
    fitted_on: int | None,
    n: int,
    seed: int,
    tpr: float | None = None,
) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """(scores, ood, failed): histograms of familiar images, detection metrics per set and score, scores that broke.

    `tpr`: the share of familiar images that must pass, beside the usual 95 %. With a reject rule by confidence also the
    share of each set that it answers.
    """
    histograms: dict[str, Any] = {}
    failed: dict[str, str] = {}
    ood: dict[str, Any] = {name: {"scores": {}, "accepted": None} for name in outside}
    for score in scores if outside else ():
        within = score.score(inside).cpu()
        away = {name: score.score(outputs).cpu() for name, outputs in outside.items()}
        bad = sum(int((~v.isfinite()).sum()) for v in [within, *away.values()])
        if bad:
            failed[score.name] = f"{bad} of its values are not finite"
            continue
        edges = _edges([within, *away.values()])
        histograms[score.name] = {
            "title": score.title,
            "edges": edges.tolist(),
            "inside": _counts(within, edges),
            "fitted_on": score.learns_from(fitted_on) if score.fits and fitted_on else None,
        }
        for name, values in away.items():
            few = min(len(values), len(within)) < FEWEST
            sample = Separation(within, values, 0 if few else n, seed, tpr)
            curve = roc_curve(within, values)
            ood[name]["scores"][score.name] = {
                **{metric.key: metric.of(sample).to_json() for metric in detection() if metric.applies(sample)},
                "outside": _counts(values, edges),
                "roc": {"fpr": _short(curve[0]), "tpr": _short(curve[1])},
            }
    if rule is not None:
        for name, outputs in outside.items():
            confidence = outputs.logits.float().softmax(dim=1).amax(dim=1)
            ood[name]["accepted"] = float(answered(rule, confidence, log_odds(outputs.logits)).double().mean())
    return histograms, ood, failed


def separated(inside: Outputs, outside: Outputs, seed: int) -> tuple[dict[str, Any] | None, str]:
    """(how well a linear classifier on the features tells the two sets apart, or None; why it is None)."""
    if inside.features is None or outside.features is None:
        return None, LACKING["features"]
    try:
        return linear_separability(inside.features, outside.features, seed).to_json(), ""
    except ValueError as error:
        return None, str(error)


def compared_outside(
    familiar: Tensor, outside: Mapping[str, Tensor], rule: Mapping[str, Any] | None
) -> dict[tuple[str, str], Share]:
    """What groups of seeds are compared by: AUROC by confidence, and with a reject rule the share of each set answered.

    `familiar`: logits `[N, C]`; `outside`: name of a set to logits `[M, C]`.
    """
    shares, inside = {}, log_odds(familiar)
    for name, logits in outside.items():
        away = log_odds(logits)
        if bool(inside.isfinite().all() and away.isfinite().all()):
            one, other = (side.cpu().double() for side in (inside, away))
            parts = placements(one, other), 1 - placements(other, one)
            shares["auroc", name] = Share(float(parts[0].mean()), parts)
        if rule is not None:
            accepted = answered(rule, logits.float().softmax(dim=1).amax(dim=1), away).cpu().double()
            shares["answered", name] = Share(float(accepted.mean()), (accepted,))
    return shares


def averaged(ood: Mapping[str, Any], groups: Mapping[str, str | None]) -> dict[str, Any]:
    """Per group (near, far) and score the unweighted mean over its sets, as OpenOOD 1.5 averages (arXiv 2306.09301).

    The interval is the mean of the sets' bounds: that of perfectly dependent sets, wider than the truth. A score that
    one of the sets lacks has no mean.
    """
    means: dict[str, Any] = {}
    for group in ("near", "far"):
        names = [name for name, own in groups.items() if own == group]
        if not names or any(name not in ood for name in names):  # a set that failed leaves no mean
            continue
        shared = [score for score in ood[names[0]]["scores"] if all(score in ood[n]["scores"] for n in names)]
        means[group] = {
            score: {
                **{
                    m.key: _mean([ood[n]["scores"][score][m.key] for n in names])
                    for m in detection()
                    if all(m.key in ood[n]["scores"][score] for n in names)
                },
                "sets": names,
            }
            for score in shared
        }
    return means


def _short(values: Tensor) -> list[float]:
    """Values of a curve, in the digits that a plot can show."""
    return [round(value, 5) for value in values.tolist()]


def detection() -> list[Detection]:
    """The metrics of how well a score tells two sets apart."""
    return [metric for metric in metrics("ood") if isinstance(metric, Detection)]


def _mean(estimates: list[dict]) -> dict:
    ends = [[e[key] for e in estimates] for key in ("value", "low", "high")]
    return Estimate(*[None if None in values else sum(values) / len(values) for values in ends]).to_json()
