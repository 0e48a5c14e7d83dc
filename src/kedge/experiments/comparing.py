"""The paper's figures beside ours: means over seeds, differences and their intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kedge.experiments.experiment import MEASURES, Experiment

__all__ = ["comparison", "mean_interval", "verdict", "welch_interval"]

LEVEL = 0.95
CLAIM = 0.4  # points


def comparison(
    experiment: Experiment, names: Sequence[str], records: Mapping[str, Mapping[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Tables of an experiment: `rows` (paper, ours, difference, interval), `gains` over the first variant, `contrasts`.

    `names`: the variants, in order; `records`: variant to seed to what was measured. Values are percent. A row per
    measure and variant has the mean over seeds, its standard deviation, how many seeds, the figure of the paper (None
    where it has none), the difference from it, and the interval of that difference: Student's t over seeds, so it
    says how our mean would vary with other seeds, and nothing of the paper's own spread. Gains and contrasts are
    differences of two variants, with Welch's t interval and a verdict in words. Measures that no run has are left out.
    """
    values = {
        name: {
            measure: [record["measures"][measure] for _, record in sorted(records.get(name, {}).items())
                      if measure in record["measures"]]
            for measure in MEASURES
        }
        for name in names
    }  # fmt: skip
    present = [measure for measure in MEASURES if any(values[name][measure] for name in names)]
    rows = [
        {
            "measure": measure,
            "higher": MEASURES[measure],
            "variant": name,
            **_against(values[name][measure], experiment.expected.get(measure, {}).get(name)),
        }
        for measure in present
        for name in names
        if values[name][measure]
    ]
    first = names[0]
    gains = [
        {"variant": name, "over": first,
         **_difference(measure, values[name], values[first], _gain(experiment, measure, name, first))}
        for measure in present
        for name in names[1:]
        if values[name][measure] and values[first][measure]
    ]  # fmt: skip
    contrasts = [
        {"question": question, "variant": one, "over": other, "measures": [
            _difference(measure, values[one], values[other], _gain(experiment, measure, one, other))
            for measure in present
            if values[one][measure] and values[other][measure]
        ]}
        for question, (one, other) in experiment.contrasts.items()
        if one in values and other in values
    ]  # fmt: skip
    return {"rows": rows, "gains": gains, "contrasts": [c for c in contrasts if c["measures"]]}


def mean_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """Student's 95 % interval of the mean of `values`; None for fewer than two."""
    if len(values) < 2:
        return None
    from scipy.stats import t

    reach = float(t.ppf((1 + LEVEL) / 2, len(values) - 1)) * statistics.stdev(values) / math.sqrt(len(values))
    mean = statistics.fmean(values)
    return mean - reach, mean + reach


def welch_interval(ours: Sequence[float], theirs: Sequence[float]) -> tuple[float, float] | None:
    """Welch's 95 % interval (Biometrika 1947) of the difference of two means; None for fewer than two values each."""
    if min(len(ours), len(theirs)) < 2:
        return None
    from kedge.evaluation.comparing import welch

    found = welch([list(ours), list(theirs)])
    if found is None:  # seeds that agree exactly
        difference = statistics.fmean(ours) - statistics.fmean(theirs)
        return difference, difference
    return found["difference"]["low"], found["difference"]["high"]


def _against(values: Sequence[float], paper: float | None) -> dict[str, Any]:
    mean = statistics.fmean(values)
    found = mean_interval(values)
    return {
        "paper": paper,
        "ours": mean,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
        "interval": list(found) if found else None,
        "difference": None if paper is None else mean - paper,
        "difference_interval": None if paper is None or found is None else [bound - paper for bound in found],
    }


def _difference(
    measure: str, one: Mapping[str, list[float]], other: Mapping[str, list[float]], paper: float | None
) -> dict[str, Any]:
    ours, theirs = one[measure], other[measure]
    difference, found = statistics.fmean(ours) - statistics.fmean(theirs), welch_interval(ours, theirs)
    return {
        "measure": measure,
        "higher": MEASURES[measure],
        "paper": paper,
        "difference": difference,
        "interval": list(found) if found else None,
        "seeds": min(len(ours), len(theirs)),
        "verdict": verdict(difference, found, paper, MEASURES[measure]),
    }


def _gain(experiment: Experiment, measure: str, name: str, over: str) -> float | None:
    figures = experiment.expected.get(measure, {})
    return figures[name] - figures[over] if name in figures and over in figures else None


def verdict(difference: float, interval: Sequence[float] | None, paper: float | None, higher: bool) -> str:
    """In words: whether a difference is there over seeds, and whether it is the paper's.

    A difference of the paper's below 0.4 is no claim: its figures are read off plots, within 0.2 each.
    """
    if interval is None:
        return "one seed: no telling"
    low, high = interval
    there = not low <= 0 <= high
    said = ("better" if (difference > 0) == higher else "worse") if there else "not resolved"
    if paper is None or abs(paper) < CLAIM:
        return said
    if there and (difference > 0) != (paper > 0):
        return f"{said}, where the paper's is {'better' if (paper > 0) == higher else 'worse'}"
    if not low <= paper <= high:
        less = abs(difference) < abs(paper) or (difference > 0) != (paper > 0)
        return f"{said}, {'less' if less else 'more'} than in the paper"
    return f"{said}, as in the paper" if there else said
