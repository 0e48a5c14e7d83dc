"""From results and bars to verdicts: pass, fail, or cannot tell, and how many images would."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from kedge.gate.criteria import CRITERIA, as_gate
from kedge.gate.measured import Measured
from kedge.printable import percent

__all__ = ["FAIL", "PASS", "UNDECIDED", "UNMEASURED", "Verdict", "needed", "overall", "verdicts"]

PASS, FAIL, UNDECIDED, UNMEASURED = "pass", "fail", "cannot tell", "not measured"
MOST = 1_000_000  # images: a number that would tell is looked for up to here


@dataclass(frozen=True)
class Verdict:
    """What a gate says of one model by one criterion.

    Attributes:
        model: its name in the results.
        criterion: the name of the criterion.
        words: what is measured.
        better: "higher" or "lower" than the bar.
        bar: the share that is asked for.
        at: of a risk, the coverage that it is of.
        verdict: "pass", "fail", "cannot tell" or "not measured".
        value, low, high: what was measured, and the interval that is judged; None: there is none.
        images: how many it rests on.
        needed: how many would tell if the rates stay as they are; None: it is told, or a million would not either.
        note: what the number is of, such as the worst class; "" for nothing.
        doubt: why a number that meets the bar does not pass; "" for nothing.
    """

    model: str
    criterion: str
    words: str
    better: str
    bar: float
    at: float | None = None
    verdict: str = UNMEASURED
    value: float | None = None
    low: float | None = None
    high: float | None = None
    images: int = 0
    needed: int | None = None
    note: str = ""
    doubt: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a file for programs has it."""
        return asdict(self)

    @property
    def sentence(self) -> str:
        """What was measured and what was asked for, for people; on undecided ones how many images would tell."""
        asked = f"{'at least' if self.better == 'higher' else 'at most'} {percent(self.bar)} % is asked"
        if self.value is None:
            return f"{self.words} was not measured; {asked}"
        spread = [] if self.low is None or self.high is None else [f"{_number(self.low)} to {_percent(self.high)}"]
        beside = ", ".join([*spread, *([self.note] if self.note else [])])
        said = f"{self.words} {_percent(self.value)}{f' ({beside})' if beside else ''}, {asked}"
        return f"{said}; {self.doubt or self._outlook}" if self.verdict == UNDECIDED else said

    @property
    def _outlook(self) -> str:
        count = f"{self.images:,} image{' is' if self.images == 1 else 's are'} too few"
        if self.needed is not None:
            return f"{count}, about {self.needed:,} would tell if the rates stay as they are"
        return count if self.low is None else f"{count}, and {MOST:,} would be at these rates"


def verdicts(results: Mapping[str, Any], gate: Mapping[str, Any] | None = None) -> list[Verdict]:
    """What a gate says of every model of some results, criterion by criterion in the order of `CRITERIA`.

    Each model is judged by itself, those of a group of seeds too: any of them may be the one that is used.

    Args:
        results: of the newest format, as `kedge.reporting.files.read_results` gives them.
        gate: name of a criterion to its bar, as in a recipe; None: for each model the `gate` of its entry, which is
            that of its recipe. A model without one has no verdicts.

    Raises:
        ValueError: for a criterion that is none, and a bar that is none.
    """
    judged = []
    for name, model in results["models"].items():
        bars = as_gate((model.get("gate") or {}) if gate is None else gate)
        for criterion in CRITERIA:
            if (bar := bars.get(criterion.name)) is not None:
                words = criterion.words.format(at="" if bar.at is None else f"{percent(bar.at)} %")
                asked = Verdict(name, criterion.name, words, criterion.better, bar.share, bar.at)
                judged.append(_judged(asked, criterion.measured(results, model, bar)))
    return judged


def overall(judged: Sequence[Verdict]) -> str:
    """The verdict of all together: not measured, else fail, else cannot tell, if there is one of them; else pass."""
    there = {each.verdict for each in judged}
    return next((verdict for verdict in (UNMEASURED, FAIL, UNDECIDED) if verdict in there), PASS)


def _judged(asked: Verdict, measured: Measured | None) -> Verdict:
    if measured is None:
        return asked
    known = replace(asked, value=measured.value, images=measured.images, note=measured.note, verdict=UNDECIDED)
    if measured.ends is None:
        return known
    low, high = measured.ends(1)
    verdict = said(low, high, asked.bar, asked.better)
    doubt = measured.doubt if verdict != FAIL else ""
    count = needed(measured, asked.bar, asked.better) if verdict == UNDECIDED and not doubt else None
    verdict = UNDECIDED if doubt else verdict
    return replace(known, verdict=verdict, low=max(0.0, low), high=min(1.0, high), needed=count, doubt=doubt)


def said(low: float, high: float, bar: float, better: str) -> str:
    """What an interval says of a bar: "pass", "fail" or "cannot tell"."""
    good, bad = (low >= bar, high < bar) if better == "higher" else (high <= bar, low > bar)
    return PASS if good else FAIL if bad else UNDECIDED


def needed(measured: Measured, bar: float, better: str) -> int | None:
    """How many images would tell at the same rates, to about 2 %; None where `MOST` would not."""
    assert measured.ends is not None
    if not measured.images:
        return None

    def tells(factor: float) -> bool:
        assert measured.ends is not None
        return said(*measured.ends(factor), bar, better) != UNDECIDED

    few, many = 1.0, 2.0
    while not tells(many):
        few, many = many, 2 * many
        if many * measured.images > 2 * MOST:
            return None
    while many / few > 1.02:
        middle = (few * many) ** 0.5
        few, many = (few, middle) if tells(middle) else (middle, many)
    count = _rounded(many * measured.images)
    return count if count <= MOST else None


def _rounded(count: float) -> int:
    """Up to two digits: more would promise what a rate that was measured on few images cannot hold."""
    size = 1
    while count / size >= 100:
        size *= 10
    return -int(-count // size) * size


def _number(share: float) -> str:
    return f"{100 * share:.1f}"


def _percent(share: float) -> str:
    return f"{100 * share:.4g} %" if round(share, 3) == share else f"{_number(share)} %"
