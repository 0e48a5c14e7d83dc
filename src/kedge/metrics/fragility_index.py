"""Fragility index: how quickly confident mistakes grow as the images move away from those that were measured."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric
from kedge.metrics._bootstrap import resamples
from kedge.metrics._checks import check_probs
from kedge.metrics._results import Line

info = Info(
    "Fragility-aware Classification for Understanding Risk and Improving Generalization", "Yang et al.", "arXiv", 2025,
    "https://arxiv.org/abs/2502.13024", "abstract",
)  # fmt: skip
TARGETS = (0.0, -0.5)
FEWEST = 20  # images; of fewer there is no interval
INFINITE = "infinite"
_CELLS = 512  # errors of resamples are rounded to so many values between -1 and 1
_HALVINGS = 45
_TAIL = 0.025


@dataclass(frozen=True)
class AtTargets:
    """`targets`: of each its `target`, `value`, `low` and `high`, a number or "infinite"; None: not computed."""

    targets: list[dict[str, Any]]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def fragility_index(probs: Tensor, labels: Tensor, target: float = 0.0) -> Tensor:
    """The smallest k ≥ 0 with E_P[z] - target ≤ k KL(P, P̂) for every distribution P of the images; lower is better.

    z = max_(j ≠ y) p_j - p_y is the ranking error of an image, in [-1, 1]: above 0 the answer is wrong, near 1
    confidently so. P̂ is the measured images. As sup_P {E_P z - k KL} = k log mean exp(z / k), it is the k at which that
    equals the target: 0 where no z is above the target, infinite where their mean is not below it. It says how much the
    mean error can rise above the target for each nat by which other images differ from these.

    Our reading of Yang et al., arXiv 2502.13024, of which the abstract was at hand: robust satisficing, confident
    mistakes and KL are named there. Which scores are ranked, and which target is used, is not known; probabilities
    have a scale of their own, and bounds. A model that answers nothing, with equal probabilities, has z = 0 and an
    index of 0 at a target of 0: read it at two targets, both above the mean z of every model that is compared, and
    beside the accuracy.

    Args:
        probs: `[N, C]`, C ≥ 2.
        labels: class indices `[N]`.
        target: in [-1, 1].

    Returns:
        A scalar, float64; infinity as such.

    Raises:
        ValueError: for logits, no samples, one class, or a target out of range.
    """
    check_probs(probs, labels)
    if probs.shape[1] < 2:
        raise ValueError("a ranking error needs two classes or more, and probs has one column")
    if not -1 <= target <= 1:
        raise ValueError(f"target is a mean ranking error, -1 to 1, but it is {target}")
    return smallest_k(ranking_errors(probs, labels), target)[0]


def ranking_errors(probs: Tensor, labels: Tensor) -> Tensor:
    """max_(j ≠ y) p_j - p_y of each image, `[N]` float64 in [-1, 1], from probs `[N, C]` and labels `[N]`."""
    probs, index = probs.detach().double(), labels.long()[:, None]
    own = probs.gather(1, index)[:, 0]
    return probs.scatter(1, index, -1.0).amax(1) - own


def smallest_k(errors: Tensor, target: float, weights: Tensor | None = None) -> Tensor:
    """`[R]` float64: k with k log Σ_i w_i exp(z_i / k) = target, 0 or infinite as in `fragility_index`.

    `errors` `[M]` are any numbers, `weights` `[R, M]` how often each counts, 0 or more; None: once. It falls in k, and
    its root lies between (max - target) / log(1 / w_max) and, by Hoeffding's lemma, (max - min)² / (8 (target - mean)).
    """
    errors = errors.detach().double().cpu() - target
    weights = torch.ones(1, len(errors), dtype=torch.float64) if weights is None else weights.double()
    weights = weights / weights.sum(1, keepdim=True)
    there, logs = weights > 0, weights.log()
    largest = errors.expand_as(weights).masked_fill(~there, -torch.inf).amax(1)
    smallest = errors.expand_as(weights).masked_fill(~there, torch.inf).amin(1)
    share = (weights * (errors == largest[:, None])).sum(1)
    mean = weights @ errors
    # What rounding makes of a mean at the target must not become a large number.
    bounded, safe = (largest > 0) & (mean < -1e-12 * errors.abs().max()), largest <= 0
    low = (largest / -share.log()).where(bounded, 1.0).log()
    high = ((largest - smallest).square() / (-8 * mean)).where(bounded, 1.0).log()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        above = torch.logsumexp(errors / middle.exp()[:, None] + logs, 1) > 0
        low, high = middle.where(above, low), high.where(above, middle)
    return ((low + high) / 2).exp().where(bounded, torch.inf).masked_fill(safe, 0.0)


class FragilityIndex(Metric):
    """How much the mean ranking error may rise, beyond a target, for each nat by which images differ from these."""

    label = "fragility index"
    unit = ""
    better = "lower"
    judged = False
    top = None
    order = 90
    summary = ("clean",)
    probs = True
    words = (
        "How fast confident mistakes grow as images become unlike these. The ranking error of an image is the largest "
        "probability of a wrong class less that of the true one: -1 is surely right, 1 surely wrong. The index is how "
        "far its mean can rise above the target for each nat of such unlikeness: 0 where no image is above the target, "
        "infinite where the mean already is. A model that is never sure is not fragile either: read it beside the "
        "accuracy."
    )
    convention = (
        "fragility index, our reading: smallest k with k log mean exp(z / k) at most the target, z the largest "
        "probability of a wrong class less that of the true one; interval: bootstrap percentiles, and where no image "
        "is above the target up to the index with three further images that are surely wrong"
    )

    def applies(self, sample: Answers) -> bool:
        return sample.probs.shape[1] > 1

    def value(self, sample: Answers) -> float:
        return float(smallest_k(sample.once(_errors), TARGETS[0])[0])

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> AtTargets:
        errors = sample.once(_errors)
        values = [float(smallest_k(errors, target)[0]) for target in TARGETS]
        ends = (
            _intervals(errors, values, sample) if sample.n and len(sample) >= FEWEST else [(None, None)] * len(values)
        )
        return AtTargets([
            {"target": target, "value": _words(own), "low": _words(low), "high": _words(high)}
            for target, own, (low, high) in zip(TARGETS, values, ends, strict=True)
        ])  # fmt: skip

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        of_target = [{each["target"]: each for each in v["targets"]} if v else {} for v in values]
        return [
            Line(f"{self.label}, target {target:g}", [own.get(target) for own in of_target], self.unit, self.better)
            for target in dict.fromkeys(target for own in of_target for target in own)
        ]

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        over = [f"{each['target']:g}" for each in (value or {}).get("targets", ()) if each["value"] == INFINITE]
        if not over:
            return ""
        return (
            f"Its fragility index at a target of {' and '.join(over)} is infinite: its mean ranking error is above "
            "that on these images already."
        )

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        for each in (value or {}).get("targets", ()):
            yield f"target {each['target']:g}", self.name, each


def _errors(sample: Answers) -> Tensor:
    return ranking_errors(sample.probs, sample.labels)


def _words(value: float | None) -> float | str | None:
    return INFINITE if value == torch.inf else value


def _intervals(errors: Tensor, values: Sequence[float], sample: Answers) -> list[tuple[float | None, float | None]]:
    """Low and high of each target, which hold its value."""
    cell = ((errors + 1) / 2 * _CELLS).long().clamp(0, _CELLS - 1)
    used, cell = cell.unique(return_inverse=True)
    size = torch.bincount(cell, minlength=len(used)).double()
    means = torch.zeros(len(used), dtype=torch.float64).index_add_(0, cell, errors) / size
    drawn: list[list[Tensor]] = [[] for _ in TARGETS]
    for weights in resamples(len(errors), sample.n, sample.seed):
        counts = torch.zeros(len(weights), len(used)).index_add_(1, cell, weights)
        for own, target in zip(drawn, TARGETS, strict=True):
            own.append(smallest_k(means, target, counts))
    ends: list[tuple[float | None, float | None]] = []
    for own, target, value in zip(drawn, TARGETS, values, strict=True):
        ordered = torch.cat(own).sort().values
        low, high = float(ordered[int(_TAIL * len(ordered))]), float(ordered[-1 - int(_TAIL * len(ordered))])
        if value == 0:  # the rule of three: a share of 3 / N is missed once in twenty times
            more = torch.cat([torch.ones(1, len(errors)), torch.full((1, 1), 3.0)], 1)
            high = float(smallest_k(torch.cat([errors, errors.new_ones(1)]), target, more)[0])
        ends.append((min(low, value), max(high, value)))
    return ends
