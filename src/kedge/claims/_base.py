"""What a claim is: variants that differ in one thing, what is measured of each, and what must come out."""

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from kedge import catalog
from kedge.experiments.comparing import mean_interval

__all__ = ["PARTS", "Claim", "Criterion", "Curve", "claim", "claims_of", "verdict_of"]

PARTS = {"training": "methods that train", "measuring": "methods that measure, adapt and decide"}


@dataclass(frozen=True)
class Criterion:
    """What must come out: a measure of one variant above, below or near that of another, by so much.

    Attributes:
        words: the claim, in a few words.
        measure: what is compared, a key of what `Claim.run` returns.
        one, other: the variants; `other` None compares `one` with `by` itself.
        must: "above" by `by` or more, "below" by `by` or more, or "near": within `by`.
        by: in the unit of the measure, 0 or more; with `other` None the value to be above or below of.
    """

    words: str
    measure: str
    one: str
    other: str | None
    must: Literal["above", "below", "near"] = "above"
    by: float = 0.0

    def judge(self, values: Mapping[str, Mapping[int, Mapping[str, float]]]) -> dict[str, Any]:
        """The difference over seeds with its interval, and the verdict; `values`: variant to seed to measures.

        Seeds are paired: variants of a seed share images, order and first weights. The interval is Student's 95 % of
        the mean difference. It "passes" where the mean does what the criterion says and the interval leaves out no
        effect; it is "not resolved" where the mean does and the interval does not, or there is one seed; otherwise it
        "fails". A criterion of nearness goes by the mean alone.
        """
        seeds = sorted(set(values[self.one]) & set(values[self.other or self.one]))
        differences = [
            values[self.one][seed][self.measure] - (values[self.other][seed][self.measure] if self.other else 0.0)
            for seed in seeds
        ]
        mean, interval = statistics.fmean(differences), mean_interval(differences)
        line = self.by if self.other is None else 0.0  # where there is no effect
        if self.must == "near":
            passes, resolved = abs(mean) <= self.by, True
        else:
            sign = 1 if self.must == "above" else -1
            passes = sign * mean >= (sign * self.by if self.other is None else self.by)
            resolved = interval is not None and min(sign * bound for bound in interval) >= sign * line
        return {
            **asdict(self),
            "difference": mean,
            "interval": None if interval is None else list(interval),
            "seeds": len(seeds),
            "verdict": "fails" if not passes else "passes" if resolved else "not resolved",
        }


@dataclass(frozen=True)
class Curve:
    """A measure over numbers, for a plot: the measures of a claim named "MEASURE, 5 OVER" or "MEASURE, OVER 5".

    Attributes:
        measure, over: the words.
        log_x, log_y: whether the axes are logarithmic.
    """

    measure: str
    over: str
    log_x: bool = False
    log_y: bool = False

    def points(self, measures: Iterable[str]) -> dict[float, str]:
        """Number to the name of its measure, in the order of the numbers."""
        over = re.escape(self.over)
        named = re.compile(rf"{re.escape(self.measure)}, (?:(?P<before>\S+) {over}|{over} (?P<after>\S+))")
        matches = [match for match in map(named.fullmatch, measures) if match is not None]
        return dict(sorted((float(match["before"] or match["after"]), match[0]) for match in matches))


class Claim:
    """A published claim that a few minutes of one core can look at.

    Attributes:
        part: of the table, "training" or "measuring".
        methods: what it is about, "objectives.brier": their pages show what came out.
        variants: what is compared, the control first.
        criteria: what must come out.
        data: the names of the data sets that it needs, beside `digits`, which is always here.
        seeds: how many.
        curve: what is plotted; None: the first criterion's measure of each variant.
    """

    part: str = "training"
    methods: tuple[str, ...] = ()
    variants: tuple[str, ...] = ()
    criteria: tuple[Criterion, ...] = ()
    data: tuple[str, ...] = ()
    seeds: int = 3
    curve: Curve | None = None

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """What is measured of a variant: measure to value; "seconds a step" is shown as the cost."""
        raise NotImplementedError


def claim(name: str) -> Claim:
    """The claim of a name in the room, checked.

    Raises:
        ValueError: for a name that is none; for a claim whose criteria name a variant that it does not have.
    """
    made: Claim = catalog.get("claims", name)()
    if made.part not in PARTS:
        raise ValueError(f"claim {name}: part is one of {', '.join(PARTS)}, not {made.part!r}")
    for criterion in made.criteria:
        for variant in (criterion.one, criterion.other):
            if variant is not None and variant not in made.variants:
                raise ValueError(f"claim {name}: {criterion.words}: no variant is named {variant!r}")
    return made


def claims_of(part: str | None = None, only: Sequence[str] | None = None) -> list[str]:
    """The names of the claims: all, of one part, or `only` some.

    Raises:
        ValueError: for a part or a name that is none, and for names of another part.
    """
    if part is not None and part not in PARTS:
        raise ValueError(f"the parts of the claims are {', '.join(PARTS)}, not {part!r}")
    names = catalog.names("claims") if only is None else [catalog.resolve("claims", name) for name in only]
    parts = {name: catalog.stated("claims", name, "part", "training") for name in names}
    if part is not None and only is not None and (others := [name for name in names if parts[name] != part]):
        raise ValueError(f"{', '.join(others)}: not of the part {part} of the claims; name them without a part")
    return [name for name in names if part in (None, parts[name])]


def verdict_of(criteria: Sequence[Mapping[str, Any]]) -> str:
    """Of a claim: "fails" if any criterion does, else "not resolved" if any is, else "passes"."""
    verdicts = {criterion["verdict"] for criterion in criteria}
    return next((word for word in ("fails", "not resolved") if word in verdicts), "passes")
