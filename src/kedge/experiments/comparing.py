"""The paper's figures beside ours: means over seeds, differences and their intervals."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kedge.experiments.experiment import Experiment
from kedge.experiments.measures import MEASURES, value

__all__ = ["comparison", "mean_interval", "verdict", "welch_interval", "without_width"]

LEVEL = 0.95
CLAIM = 0.4  # points


def comparison(
    experiment: Experiment, names: Sequence[str], records: Mapping[str, Mapping[int, dict[str, Any]]]
) -> dict[str, Any]:
    """Tables of an experiment: `rows` (paper, ours, difference, interval), `gains` over the first variant, `contrasts`.

    `names`: the variants, in order; `records`: variant to seed to what was measured. A row per measure and
    variant has the mean over seeds, its standard deviation, how many seeds, the figure of the paper (None where it has
    none), the difference from it, and the interval of that difference: Student's t over seeds, so it says how our mean
    would vary with other seeds, and nothing of the paper's own spread. Gains and contrasts are differences of two
    variants, with Welch's t interval and a verdict in words; where runs of one seed are, or start from, one run, the
    interval is Student's of the differences seed by seed (`paired`). Measures that no run has are left out.
    Whether a calibration error differs is judged by `corrected`, the same without the bias that few images give it.
    """
    measured = {name: dict(sorted(records.get(name, {}).items())) for name in names}
    values = {
        name: {m: {s: v for s, record in own.items() if (v := value(record, m)) is not None} for m in MEASURES}
        for name, own in measured.items()
    }
    unbiased = {
        name: {
            m: {seed: record.get("corrected", {}).get(m) for seed, record in own.items()}
            for m in MEASURES if MEASURES[m].biased
        }
        for name, own in measured.items()
    }  # fmt: skip
    present = [m for m in MEASURES if any(values[name][m] for name in names)]

    def differences(one: str, other: str) -> list[dict[str, Any]]:
        related = experiment.root(one) == experiment.root(other)
        return [
            _difference(m, (values[one][m], values[other][m]), (unbiased[one].get(m), unbiased[other].get(m)),
                        _paper(experiment, m, one, other), related)
            for m in present if values[one][m] and values[other][m]
        ]  # fmt: skip

    first = names[0]
    rows = [
        {"measure": m, "higher": MEASURES[m].higher, "unit": MEASURES[m].unit, "variant": name,
         **_against([*values[name][m].values()], experiment.expected.get(m, {}).get(name))}
        for m in present for name in names if values[name][m]
    ]  # fmt: skip
    gains = [{"variant": name, "over": first, **gain} for name in names[1:] for gain in differences(name, first)]
    contrasts = [
        {"question": question, "variant": one, "over": other, "measures": differences(one, other)}
        for question, (one, other) in experiment.contrasts.items()
        if one in values and other in values
    ]
    return {
        "rows": rows,
        "gains": sorted(gains, key=lambda gain: present.index(gain["measure"])),
        "contrasts": [contrast for contrast in contrasts if contrast["measures"]],
    }


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

    test = welch([list(ours), list(theirs)])
    if test is None:  # seeds that agree exactly
        difference = statistics.fmean(ours) - statistics.fmean(theirs)
        return difference, difference
    return test["difference"]["low"], test["difference"]["high"]


def _interval(ours: Mapping[int, float], theirs: Mapping[int, float], paired: bool) -> tuple[float, float] | None:
    """Of the difference of two means, by seed; `paired`: of values that go together."""
    if paired:
        return mean_interval([ours[seed] - theirs[seed] for seed in ours])
    return welch_interval([*ours.values()], [*theirs.values()])


def without_width(interval: Sequence[float]) -> bool:
    """Whether an interval is that of values that agree exactly, but for rounding."""
    low, high = interval
    return high - low <= 1e-9 * max(abs(low), abs(high))


def _against(values: Sequence[float], paper: float | None) -> dict[str, Any]:
    mean, interval = statistics.fmean(values), mean_interval(values)
    if interval is not None and without_width(interval):  # of seeds that agree exactly, as others would not
        interval = None
    return {
        "paper": paper,
        "ours": mean,
        "sd": statistics.stdev(values) if len(values) > 1 else None,
        "seeds": len(values),
        "interval": list(interval) if interval else None,
        "difference": None if paper is None else mean - paper,
        "difference_interval": None if paper is None or interval is None else [end - paper for end in interval],
    }


def _difference(
    measure: str,
    values: tuple[Mapping[int, float], Mapping[int, float]],
    unbiased: tuple[Mapping[int, float | None] | None, Mapping[int, float | None] | None],
    paper: float | None,
    related: bool = False,
) -> dict[str, Any]:
    """The reported difference with its interval, and of what has a bias also `corrected`, which decides.

    Values are by seed; `related`: those of one seed share a run.
    """
    (ours, theirs), higher = values, MEASURES[measure].higher
    both = ours.keys() & theirs.keys()
    if paired := related and bool(both):
        ours, theirs = ({seed: v for seed, v in own.items() if seed in both} for own in values)
    difference = statistics.fmean(ours.values()) - statistics.fmean(theirs.values())
    interval = _interval(ours, theirs, paired)
    record = {
        "measure": measure,
        "higher": higher,
        "unit": MEASURES[measure].unit,
        "paper": paper,
        "difference": difference,
        "interval": list(interval) if interval else None,
        "seeds": min(len(ours), len(theirs)),
        **({"paired": True} if paired else {}),
    }
    first, second = unbiased
    if first is None or second is None:
        return {**record, "verdict": verdict(difference, interval, paper, higher)}
    if interval is None:
        return {**record, "corrected": None, "verdict": verdict(difference, None, paper, higher)}
    one, other = ({s: v for s, v in own.items() if v is not None} for own in unbiased if own is not None)
    if len(one) < len(first) or len(other) < len(second):  # records of an earlier version
        return {**record, "verdict": "not judged"}
    if paired:
        one, other = ({seed: v for seed, v in own.items() if seed in both} for own in (one, other))
    decisive = _interval(one, other, paired)
    return {
        **record,
        "corrected": {
            "difference": statistics.fmean(one.values()) - statistics.fmean(other.values()),
            "interval": list(decisive or ()),
        },
        "verdict": verdict(difference, interval, paper, higher, decisive),
    }  # fmt: skip


def _paper(experiment: Experiment, measure: str, name: str, over: str) -> float | None:
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
    side of the reported difference. An interval without width is of seeds that agree exactly, as two of them often do
    on few images: it says nothing of how others would, and tells no difference. A difference of the paper's below 0.4
    is no claim: its figures are read off plots, within 0.2 each.
    """
    if interval is None:
        return "one seed: no telling"
    low, high = interval
    least, most = (low, high) if judged is None else judged
    there = (least > 0 if difference > 0 else most < 0) and not without_width((least, most))
    words = ("better" if (difference > 0) == higher else "worse") if there else "not resolved"
    if paper is None or abs(paper) < CLAIM or without_width(interval):
        return words
    if there and (difference > 0) != (paper > 0):
        return f"{words}, where the paper's is {'better' if (paper > 0) == higher else 'worse'}"
    if not low <= paper <= high:
        less = abs(difference) < abs(paper) or (difference > 0) != (paper > 0)
        return f"{words}, {'less' if less else 'more'} than in the paper"
    return f"{words}, as in the paper" if there else words
