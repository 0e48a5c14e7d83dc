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
    Whether a calibration error differs is judged by `corrected`, the same without the bias that few images give it.
    """
    corrected = {
        name: {
            measure: [record.get("corrected", {}).get(measure) for _, record in sorted(records.get(name, {}).items())]
            for measure in MEASURES
            if measure.endswith("ECE")
        }
        for name in names
    }
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
         **_difference(measure, values[name], values[first], _gain(experiment, measure, name, first),
                       (corrected[name].get(measure), corrected[first].get(measure)))}
        for measure in present
        for name in names[1:]
        if values[name][measure] and values[first][measure]
    ]  # fmt: skip
    contrasts = [
        {"question": question, "variant": one, "over": other, "measures": [
            _difference(measure, values[one], values[other], _gain(experiment, measure, one, other),
                        (corrected[one].get(measure), corrected[other].get(measure)))
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
    measure: str,
    one: Mapping[str, list[float]],
    other: Mapping[str, list[float]],
    paper: float | None,
    unbiased: tuple[list[float | None] | None, list[float | None] | None],
) -> dict[str, Any]:
    """The reported difference with its interval, and for a calibration error also `corrected`, which decides."""
    ours, theirs = one[measure], other[measure]
    difference, found = statistics.fmean(ours) - statistics.fmean(theirs), welch_interval(ours, theirs)
    record = {
        "measure": measure,
        "higher": MEASURES[measure],
        "paper": paper,
        "difference": difference,
        "interval": list(found) if found else None,
        "seeds": min(len(ours), len(theirs)),
    }
    first, second = unbiased
    if first is None or second is None:  # a measure without bias
        return {**record, "verdict": verdict(difference, found, paper, MEASURES[measure])}
    if found is None:
        return {**record, "corrected": None, "verdict": verdict(difference, None, paper, MEASURES[measure])}
    if any(value is None for value in [*first, *second]):  # measured before
        return {**record, "verdict": "not judged"}
    clear: list[list[float]] = [first, second]  # type: ignore[list-item]
    judged = statistics.fmean(clear[0]) - statistics.fmean(clear[1]), welch_interval(*clear)
    return {
        **record,
        "corrected": {"difference": judged[0], "interval": list(judged[1] or ())},
        "verdict": verdict(difference, found, paper, MEASURES[measure], judged[1]),
    }


def _gain(experiment: Experiment, measure: str, name: str, over: str) -> float | None:
    figures = experiment.expected.get(measure, {})
    return figures[name] - figures[over] if name in figures and over in figures else None


def verdict(
    difference: float,
    interval: Sequence[float] | None,
    paper: float | None,
    higher: bool,
    judged: Sequence[float] | None = None,
) -> str:
    """In words: whether a difference is there over seeds, and whether it is the paper's.

    `judged` is the interval of the difference without bias where it has one: it is there if that leaves out 0 on the
    side of the reported difference. A difference of the paper's below 0.4 is no claim: its figures are read off plots,
    within 0.2 each.
    """
    if interval is None:
        return "one seed: no telling"
    low, high = interval
    least, most = (low, high) if judged is None else judged
    there = least > 0 if difference > 0 else most < 0
    said = ("better" if (difference > 0) == higher else "worse") if there else "not resolved"
    if paper is None or abs(paper) < CLAIM:
        return said
    if there and (difference > 0) != (paper > 0):
        return f"{said}, where the paper's is {'better' if (paper > 0) == higher else 'worse'}"
    if not low <= paper <= high:
        less = abs(difference) < abs(paper) or (difference > 0) != (paper > 0)
        return f"{said}, {'less' if less else 'more'} than in the paper"
    return f"{said}, as in the paper" if there else said
