"""Which differences between models hold: paired on the same images, and over seeds."""

import itertools
import math
import statistics
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedge.metrics import interval
from kedge.metrics._summary import Numbers

MOST = 6  # up to so many models or groups every pair is compared, beyond it each with the first


@dataclass(frozen=True)
class Share:
    """A number that is a mean over images, or over pairs of them.

    Attributes:
        value: the number.
        parts: `[N]` each, what every image of a sample brings: over images the number varies as their means together.
    """

    value: float
    parts: tuple[Tensor, ...]


@dataclass(frozen=True)
class Number:
    """A metric on clean images, or its mean over corruptions.

    Attributes:
        reported: as it stands in the results.
        value: what is compared: without the bias that a calibration error has. NaN: too few images for that.
        draws: `[n]`, `value` on n resamples that all models share; None: there are none.
        unbiased: whether `value` may differ from what is reported.
        of_right_answers: whether it is the share of right answers, so that who was right on what decides.
    """

    reported: float
    value: float
    draws: Tensor | None = None
    unbiased: bool = False
    of_right_answers: bool = False


@dataclass(frozen=True)
class Measured:
    """What comparisons need of one model.

    Attributes:
        numbers: (metric, "clean" or "corrupted") to the number there.
        correct: name of a set (clean, an attack) -> bool `[N]` for the same images of every model.
        outside: (metric, name of an out-of-distribution set) to its value, the same images for every model.
    """

    numbers: dict[tuple[str, str], Number]
    correct: dict[str, Tensor]
    outside: dict[tuple[str, str], Share] = field(default_factory=dict)

    def rows(self) -> dict[str, float]:
        """Everything as it stands in a table, by metric and place."""
        attacked = sorted(set(self.correct) - {"clean"})
        return {
            **{f"{metric}, {where}": number.reported for (metric, where), number in self.numbers.items()},
            **{f"accuracy, {name}": float(self.correct[name].double().mean()) for name in attacked},
            **{f"{metric}, {where}": share.value for (metric, where), share in self.outside.items()},
        }


def compared_numbers(clean: Numbers, corrupted: Numbers | None) -> dict[tuple[str, str], Number]:
    """The numbers by which models are compared, of the metrics that say so."""
    chosen = {}
    for where, numbers in (("clean", clean), ("corrupted", corrupted)):
        for m, metric in enumerate(() if numbers is None else numbers.metrics):
            if numbers is not None and where in metric.compared:
                draws = None if numbers.draws is None else numbers.draws[:, :, m].mean(dim=1)
                chosen[metric.name, where] = Number(
                    float(numbers.values[:, m].mean()),
                    float(numbers.centers[:, m].mean()),
                    None if draws is None or bool(draws[0].isnan()) else draws,
                    metric.unbiased,
                    metric.of_right_answers,
                )
    return chosen


def mcnemar(a: Tensor, b: Tensor) -> float:
    """The exact two-sided p-value of McNemar's test (1947) for `a` and `b`, bool `[N]`: who was right on what."""
    from scipy.stats import binomtest

    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    return 1.0 if only_a + only_b == 0 else float(binomtest(only_a, only_a + only_b).pvalue)


def _sign_test(each: Tensor) -> float:
    """The exact two-sided p-value for as many above 0 as below."""
    from scipy.stats import binomtest

    above, below = int((each > 0).sum()), int((each < 0).sum())
    return 1.0 if above + below == 0 else float(binomtest(above, above + below).pvalue)


def bootstrap_p(difference: float, draws: Tensor) -> float:
    """The two-sided p-value of a difference from its draws `[n]`, shifted to a difference of 0."""
    beyond = int(((draws - difference).abs() >= abs(difference)).sum())
    return (1 + beyond) / (1 + len(draws))


def compare(models: dict[str, Measured], groups: dict[str, list[str]]) -> list[dict[str, Any]]:
    """One record for each pair of models (of groups of seeds where there are groups) and metric; a minus b."""
    grouped = {name for members in groups.values() for name in members}
    entities = {**groups, **{name: [name] for name in models if name not in grouped}}
    pairs = list(itertools.combinations(entities, 2))
    if len(entities) > MOST:
        first = next(iter(entities))
        pairs = [(first, other) for other in entities if other != first]
    records: list[dict[str, Any]] = []
    for a, b in pairs:
        ours, theirs = ([models[name] for name in entities[entity]] for entity in (a, b))
        for metric, where in ours[0].numbers:
            records += _of_numbers(a, b, metric, where, ours, theirs)
        attacks = set.intersection(*(set(m.correct) for m in [*ours, *theirs])) - {"clean"}
        for name in sorted(attacks):
            sides = [[m.correct[name] for m in side] for side in (ours, theirs)]
            if all(len(c) == len(sides[0][0]) for side in sides for c in side):
                records.append(_of_correct(a, b, name, *sides))
        if min(len(ours), len(theirs)) >= 2:
            for metric, where in ours[0].outside:
                records += _of_outside(a, b, metric, where, ours, theirs)
    return records


def _of_outside(
    a: str, b: str, metric: str, where: str, ours: list[Measured], theirs: list[Measured]
) -> list[dict[str, Any]]:
    """How groups of seeds tell out-of-distribution images; nothing where a model was not measured there."""
    if any((metric, where) not in model.outside for model in [*ours, *theirs]):
        return []
    sides = [[model.outside[metric, where] for model in side] for side in (ours, theirs)]
    means = [[torch.stack(part).mean(dim=0) for part in zip(*(s.parts for s in side), strict=True)] for side in sides]
    images = sum(float((one - other).var() / len(one)) for one, other in zip(*means, strict=True))
    over = welch([[share.value for share in side] for side in sides], images)
    return [] if over is None else [{"a": a, "b": b, "metric": metric, "where": where, **over}]


def _of_numbers(
    a: str, b: str, metric: str, where: str, ours: list[Measured], theirs: list[Measured]
) -> list[dict[str, Any]]:
    """One metric on clean or corrupted images; nothing where a model has no such number."""
    if any((metric, where) not in model.numbers for model in [*ours, *theirs]):
        return []
    sides = [[model.numbers[metric, where] for model in side] for side in (ours, theirs)]
    first = sides[0][0]
    values = [[number.value for number in side] for side in sides]
    if any(map(math.isnan, itertools.chain(*values))):
        return []  # too few images for a calibration error without bias
    record: dict[str, Any] = {"a": a, "b": b, "metric": metric, "where": where}
    if first.unbiased:
        means = [statistics.fmean(number.reported for number in side) for side in sides]
        record["reported"] = means[0] - means[1]
    records, drawn = [], None
    if all(number.draws is not None for side in sides for number in side):
        draws = [torch.stack([number.draws for number in side]).mean(dim=0) for side in sides]  # type: ignore[misc]
        drawn = draws[0] - draws[1]
    if len(ours) == len(theirs) == 1 and first.of_right_answers and where == "clean":
        records.append({**record, **_of_correct(a, b, where, [ours[0].correct["clean"]], [theirs[0].correct["clean"]])})
    elif drawn is not None:
        difference = statistics.fmean(values[0]) - statistics.fmean(values[1])
        low, high = interval(drawn, torch.tensor(difference)).tolist()
        records.append(
            {
                **record,
                "difference": {"value": difference, "low": low, "high": high},
                "p": bootstrap_p(difference, drawn),
                "test": "paired bootstrap"
                + (", cross-fitted" if first.unbiased else "")
                + (", seeds averaged" if len(ours) + len(theirs) > 2 else ""),
                "n": len(ours[0].correct["clean"]),
            }
        )
    if min(len(ours), len(theirs)) >= 2:
        over = welch(values, 0.0 if drawn is None else float(drawn.var()))
        records += [] if over is None else [{**record, **over}]
    return records


def _of_correct(a: str, b: str, where: str, ours: list[Tensor], theirs: list[Tensor]) -> dict[str, Any]:
    """Accuracy of one model against another on the same images; of groups, each image's share of seeds."""
    shares = [torch.stack(side).double().mean(dim=0) for side in (ours, theirs)]
    each = shares[0] - shares[1]
    difference, error = float(each.mean()), float(each.std() / math.sqrt(len(each))) if len(each) > 1 else math.nan
    single = len(ours) == len(theirs) == 1
    reach = 1.96 * error
    known = math.isfinite(reach) and error > 0  # where all images say the same, their spread is no guide
    p = math.erfc(abs(difference) / error / math.sqrt(2)) if known else _sign_test(each)
    return {
        "a": a,
        "b": b,
        "metric": "accuracy",
        "where": where,
        "difference": {
            "value": difference,
            "low": difference - reach if known else None,
            "high": difference + reach if known else None,
        },
        "p": mcnemar(ours[0], theirs[0]) if single else p,
        "test": "McNemar exact" if single else f"paired {'z' if known else 'sign test'}, seeds averaged",
        "n": len(each),
    }


def welch(values: list[list[float]], images: float = 0.0) -> dict[str, Any] | None:
    """The difference of two means over seeds with Welch's t interval and test (Biometrika 1947); None: no spread.

    `images` is the variance of the difference over test images. Seeds that were tested on the same images share their
    chance, which the spread of the seeds does not show: without it, the interval is of these images alone.
    """
    from scipy.stats import t

    difference = statistics.fmean(values[0]) - statistics.fmean(values[1])
    spread = [statistics.variance(side) / len(side) for side in values]
    if math.sqrt(sum(spread)) <= 1e-9 * max(map(abs, values[0] + values[1])):
        return None  # seeds that agree exactly, as on few images they may, say nothing of how others would
    error = math.sqrt(sum(spread) + images)
    # Satterthwaite: the images are many, so their variance counts as known.
    freedom = error**4 / sum(s**2 / (len(side) - 1) for s, side in zip(spread, values, strict=True))
    reach = float(t.ppf(0.975, freedom)) * error
    return {
        "difference": {"value": difference, "low": difference - reach, "high": difference + reach},
        "p": 2 * float(t.sf(abs(difference) / error, freedom)),
        "test": "Welch t over seeds" + (" and images" if images else ""),
        "n": sum(map(len, values)),
    }


def group_table(models: dict[str, Measured], groups: dict[str, list[str]]) -> dict[str, dict[str, dict]]:
    """Mean and standard deviation over the seeds of each group, by place and metric."""
    table = {}
    for group, members in groups.items():
        first, *others = (models[name].rows() for name in members)
        shared = [row for row in first if all(row in other for other in others)]
        table[group] = {row: _mean_sd([first[row], *(other[row] for other in others)]) for row in shared}
    return table


def _mean_sd(values: list[float]) -> dict[str, Any]:
    sd = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": statistics.fmean(values), "sd": sd, "n": len(values)}
