"""How often the intervals on the page hold the truth, and how often its verdicts are false, in simulation.

    python -m benchmarks.coverage

Sets of images are drawn from models whose true accuracy, calibration error, AUROC and so on are known; what the page
would print of each is computed by the functions that it is made with. An interval of 95 % should hold the truth in 95 %
of the sets, a verdict at the 5 % level be false in at most 5 % where there is no difference, and be there often where
there is one. `--rounds` is the number of sets of 500 and 2,000 images; there are half as many of 10,000. It takes
`--jobs` processes.
"""

import math
import multiprocessing
import os
import statistics
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor

from benchmarks.side_by_side import finish, options, parser, table
from kedge import metrics
from kedge.evaluation.comparing import Measured, compare, compared_numbers
from kedge.experiments.comparing import verdict, welch_interval
from kedge.metrics._base import Answers
from kedge.metrics._base import metric as metric_called
from kedge.metrics._calibration import unchecked_bin_sums
from kedge.metrics._smooth import grid_sums, smooth_error_of
from kedge.metrics._summary import Numbers, numbers
from kedge.reporting.claims import agreeing
from kedge.reporting.rows import best_of

RESAMPLES = 200
SEEDS = 3
AT_ONCE = 12  # sets of a task
METRICS = ("accuracy", "nll", "brier", "ece", "smooth_ece")
ERRORS = ("ece", "smooth_ece")
Gap = Callable[[Tensor, float], Tensor]


def calibrated(f: Tensor, low: float) -> Tensor:
    return torch.zeros_like(f)


def overconfident(points: float) -> Gap:
    """Too sure by as many points everywhere."""
    return lambda f, low: torch.full_like(f, -points / 100)


def bent(points: float) -> Gap:
    """Too sure by as many points on average, most in the middle, as a temperature makes it."""

    def gap(f: Tensor, low: float) -> Tensor:
        return -points / 100 * (f - low) * (1 - f) / ((1 - low) ** 2 / 6)

    return gap


def half(points: float) -> Gap:
    """Too sure by twice as many points where it is surest, calibrated elsewhere."""
    return lambda f, low: -2 * points / 100 * (f > (1 + low) / 2).to(f)


class Model:
    """Confidences uniform between `low` and 1, right with the probability confidence + gap."""

    def __init__(self, low: float, gap: Gap) -> None:
        self.low, self.gap = low, gap

    def confidences(self, size: int, generator: torch.Generator) -> Tensor:
        return self.low + (1 - self.low) * torch.rand(size, generator=generator, dtype=torch.float64)

    def columns(self, f: Tensor, chance: Tensor) -> dict[str, Tensor]:
        """Per-image columns of one set; an image is right where the uniform `chance` is below its probability."""
        right = chance < (f + self.gap(f, self.low)).clamp(0, 1)
        own = torch.where(right, f, 1 - f).clamp(min=1e-12)
        return {"rank": (~right).long(), "confidence": f, "nll": -own.log(), "brier": 2 * (1 - own).square()}

    def truth(self) -> dict[str, float]:
        """The five metrics of infinitely many images, on a fine grid of confidences."""
        f = self.low + (1 - self.low) * (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
        p = (f + self.gap(f, self.low)).clamp(0, 1)
        nll = -(p * f.log() + (1 - p) * (1 - f).log())
        brier = 2 * (p * (1 - f).square() + (1 - p) * f.square())
        # In the place of answers, how often they are right: the sums of infinitely many.
        error = metrics.binned_error(unchecked_bin_sums(f, p, 15))
        smooth = smooth_error_of(grid_sums(f, p)[None], torch.tensor(float(len(f))))
        values = (p.mean(), nll.mean(), brier.mean(), error, smooth)
        return dict(zip(METRICS, map(float, values), strict=True))


# (what, first model, second model, whether their calibration differs)
PAIRS = (
    ("both calibrated, 0.9–1 and 0.5–1", Model(0.9, calibrated), Model(0.5, calibrated), False),
    ("both calibrated, 0.9–1 and 0.3–1", Model(0.9, calibrated), Model(0.3, calibrated), False),
    ("both 5 points too sure, 0.8–1 and 0.5–1", Model(0.8, overconfident(5)), Model(0.5, overconfident(5)), False),
    ("both 5 points too sure, bent, 0.8–1 and 0.3–1", Model(0.8, bent(5)), Model(0.3, bent(5)), False),
    ("5 points too sure: everywhere, in one half", Model(0.5, overconfident(5)), Model(0.5, half(5)), False),
    ("calibrated 0.9–1, 3 points too sure 0.5–1", Model(0.9, calibrated), Model(0.5, overconfident(3)), True),
    ("calibrated 0.5–1, 3 points too sure 0.5–1", Model(0.5, calibrated), Model(0.5, overconfident(3)), True),
    ("calibrated 0.5–1, 3 points too sure 0.9–1", Model(0.5, calibrated), Model(0.9, overconfident(3)), True),
    ("3 and 6 points too sure, 0.5–1", Model(0.5, overconfident(3)), Model(0.5, overconfident(6)), True),
)


class Tally:
    """Shares of sets by what was asked and how many images there were, in the order they came."""

    def __init__(self) -> None:
        self.seen: dict[tuple[str, int], list[bool]] = {}

    def add(self, what: str, size: int, holds: bool) -> None:
        self.seen.setdefault((what, size), []).append(bool(holds))

    def take(self, more: "Tally") -> None:
        """The sets of another one too."""
        for key, seen in more.seen.items():
            self.seen.setdefault(key, []).extend(seen)

    def rows(self, sizes: Sequence[int]) -> list[list[Any]]:
        names = dict.fromkeys(what for what, _ in self.seen)
        return [[name, *(self.share(name, size) for size in sizes)] for name in names]

    def share(self, what: str, size: int) -> str:
        seen = self.seen.get((what, size))
        return "" if seen is None else f"{100 * statistics.fmean(seen):.0f} %"


def draw(conditions: Sequence[dict[str, Tensor]], seed: int) -> Numbers:
    samples = [Answers(columns, n=RESAMPLES, seed=seed) for columns in conditions]
    return numbers(samples, [one for name in METRICS if (one := metric_called(name))])


def measured(drawn: Numbers) -> Measured:
    """The first condition is the clean one."""
    corrupted = drawn.of(range(1, len(drawn.samples))) if len(drawn.samples) > 1 else None
    return Measured(compared_numbers(drawn.of([0]), corrupted), {"clean": drawn.samples[0].correct})


def pair(size: int, rounds: range, verdicts: Tally, holds: Tally, which: int) -> None:
    """Calibration errors of two models: paired verdicts, Welch over seeds, marks, and the intervals of each."""
    what, one, other, differs = PAIRS[which]
    truths = [one.truth(), other.truth()]
    series: list[dict[str, list[float]]] = [{}, {}]
    for r in rounds:
        generator = torch.Generator().manual_seed(1000 * r + size)
        sides, cells = [], []
        for model, truth, run in zip((one, other), truths, series, strict=True):
            chance = torch.rand(size, generator=generator, dtype=torch.float64)
            columns = model.columns(model.confidences(size, generator), chance)
            drawn = draw([columns], r)
            shown = drawn.results()
            for metric in METRICS:
                name = metric if metric not in ERRORS else f"{metric}, {what.partition(',')[0]}"
                holds.add(name, size, shown[metric]["low"] <= truth[metric] <= shown[metric]["high"])
                run.setdefault(metric, []).append(100 * shown[metric].get("corrected", 0.0))
                run.setdefault(f"{metric}, reported", []).append(100 * shown[metric]["value"])
            sides.append(measured(drawn))
            cells.append(shown)
        for test in compare({"a": sides[0], "b": sides[1]}, {}):
            if test["metric"] in ERRORS:
                same = agreeing(test) and (not differs or test["reported"] < 0)
                verdicts.add(f"{test['metric']}: {what}", size, test["p"] < 0.05 and same)
        for metric in ERRORS:
            mark = best_of([c[metric] for c in cells], "lower", "%") in ((0,) if differs else (0, 1))
            verdicts.add(f"{metric}, intervals apart: {what}", size, mark)
    for metric in ERRORS:
        for start in range(0, len(rounds) - SEEDS + 1, SEEDS):
            seeds = [run[metric][start : start + SEEDS] for run in series]
            shown = [run[f"{metric}, reported"][start : start + SEEDS] for run in series]
            difference = statistics.fmean(shown[0]) - statistics.fmean(shown[1])
            words = verdict(difference, welch_interval(*shown), None, False, welch_interval(*seeds))
            verdicts.add(
                f"{metric}, Welch over {SEEDS} seeds: {what}", size, words in ("better", "worse")[: 2 - differs]
            )


def corrupted_and_groups(size: int, rounds: range, verdicts: Tally, holds: Tally) -> None:
    """Means over three corruptions of two calibrated models, alone and as groups of seeds on the same images."""
    for r in rounds:
        generator = torch.Generator().manual_seed(7000 * r + size)
        models: dict[str, Measured] = {}
        for group, low in (("a", 0.9), ("b", 0.5)):
            chance = torch.rand(size, generator=generator, dtype=torch.float64)
            for seed in range(SEEDS):
                conditions = []
                for corruption in range(4):  # the first is the clean one
                    model = Model(low - 0.1 * corruption, calibrated)
                    # Seeds agree on most images, as trained ones do.
                    own = torch.rand(size, generator=generator, dtype=torch.float64)
                    agree = torch.rand(size, generator=generator) < 0.8
                    conditions.append(
                        model.columns(model.confidences(size, generator), torch.where(agree, chance, own))
                    )
                models[f"{group}{seed}"] = measured(draw(conditions, r))
        single = {name: models[name] for name in ("a0", "b0")}
        groups = {group: [f"{group}{seed}" for seed in range(SEEDS)] for group in "ab"}
        for how, tests in (("", compare(single, {})), (", groups of seeds", compare(models, groups))):
            for test in tests:
                if test["metric"] in ERRORS and ("Welch" in test["test"]) == bool(how):
                    what = f"{test['metric']}, {test['where']}{how}: both calibrated, 0.9–1 and 0.5–1"
                    verdicts.add(what, size, test["p"] < 0.05 and agreeing(test))


def others(size: int, rounds: range, verdicts: Tally, holds: Tally) -> None:
    """Accuracy, NLL, AURC and detection of two models that are equally good, and accuracy without labels."""
    model = Model(0.5, overconfident(3))
    truth = model.truth()
    generator = torch.Generator().manual_seed(0)
    f = model.confidences(1_000_000, generator)
    columns = model.columns(f, torch.rand(len(f), generator=generator, dtype=torch.float64))
    area = float(metrics.aurc(columns["confidence"], columns["rank"] == 0))
    normal, level = statistics.NormalDist(), (0.7, 0.9, 0.99, 0.999)
    shifts = {auroc: math.sqrt(2) * normal.inv_cdf(auroc) for auroc in level}
    precision = {
        auroc: float(metrics.aupr_in(torch.randn(400_000, generator=generator) + shift,
                                     torch.randn(400_000, generator=generator)))
        for auroc, shift in shifts.items()
    }  # fmt: skip
    for r in rounds:
        generator = torch.Generator().manual_seed(3000 * r + size)
        sides = {}
        for name in "ab":
            f = model.confidences(size, generator)
            columns = model.columns(f, torch.rand(size, generator=generator, dtype=torch.float64))
            sides[name] = measured(draw([columns, columns], r))
        right = columns["rank"] == 0
        low, high = metrics.aurc_interval(f, right, n=RESAMPLES, seed=r)
        holds.add("AURC", size, low <= area <= high)
        for test in compare(sides, {}):
            if test["metric"] not in ERRORS:
                verdicts.add(f"{test['metric']}, {test['test']}: equally good", size, test["p"] < 0.05)
        away = Model(0.4, overconfident(3))
        target = away.confidences(size, generator)
        expected = away.truth()["accuracy"]
        low, high = metrics.difference_of_confidences_interval(f, right, target, n=RESAMPLES, seed=r)
        holds.add("accuracy without labels, difference of confidences (its assumption holds)", size,
                  low <= expected <= high)  # fmt: skip
        same = model.confidences(size, generator)
        low, high = metrics.average_thresholded_confidence_interval(f, right, same, n=RESAMPLES, seed=r)
        holds.add("accuracy without labels, thresholded confidence (no shift)", size,
                  low <= truth["accuracy"] <= high)  # fmt: skip
        for auroc, shift in shifts.items():
            ours, theirs = (
                (torch.randn(size, generator=generator) + shift, torch.randn(size, generator=generator))
                for _ in range(2)
            )
            found = metrics.detection_summary(*ours, resamples=RESAMPLES, seed=r)
            wrong = normal.cdf(shift - normal.inv_cdf(0.95))
            for name, value in (("auroc", auroc), ("aupr_in", precision[auroc]), ("fpr95", 1 - wrong)):
                holds.add(f"{name}, true AUROC {100 * auroc:g} %", size, found[name][1] <= value <= found[name][2])
            other = (float(metrics.auroc(*theirs)), *metrics.auroc_interval(*theirs))
            cells = [dict(zip(("value", "low", "high"), one, strict=True)) for one in (found["auroc"], other)]
            mark = best_of(list(cells), "higher", "%") is not None
            verdicts.add(f"AUROC {100 * auroc:g} %, intervals apart: equally good", size, mark)


Task = tuple[Callable[..., None], int, range, tuple[Any, ...]]


def part(task: Task) -> tuple[Tally, Tally]:
    """One task of `main`, in a process of its own."""
    torch.set_num_threads(1)
    simulate, size, rounds, more = task
    verdicts, holds = Tally(), Tally()
    simulate(size, rounds, verdicts, holds, *more)
    return verdicts, holds


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the tables, write the JSON."""
    made = parser("coverage", __doc__, rounds=300, quick=6)
    made.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; default: one for each core")
    args = options(made, arguments)
    sizes = [200] if args.quick else [500, 2000, 10_000]
    tasks: list[Task] = []
    for size in reversed(sizes):  # what takes longest first
        rounds = max(args.rounds // 2, 1) if size == 10_000 else args.rounds
        whole = [(others, rounds, ()), (corrupted_and_groups, max(rounds // 3, 1), ())]
        whole += [(pair, rounds, (which,)) for which in range(1 if args.quick else len(PAIRS))]
        tasks += [
            (simulate, size, range(start, min(start + AT_ONCE, count)), more)
            for simulate, count, more in whole
            for start in range(0, count, AT_ONCE)
        ]
    verdicts, holds = Tally(), Tally()
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["kedge.evaluation.comparing", "kedge.reporting.claims"])  # imports once
    with ProcessPoolExecutor(args.jobs, processes) as pool:
        for more_verdicts, more_holds in pool.map(part, tasks):
            verdicts.take(more_verdicts)
            holds.take(more_holds)
    differing = tuple(what for what, _, _, differs in PAIRS if differs)
    rows = verdicts.rows(sizes)
    found = [row for row in rows if str(row[0]).endswith(differing)]
    head = [f"{size:,} images" for size in sizes]
    error = 100 * math.sqrt(0.05 * 0.95 / args.rounds)
    note = (
        f"{args.rounds} sets (half as many of 10,000, a third for groups), {RESAMPLES} resamples: 5 % is ± {error:.1f}."
    )
    tables = [
        table("Verdicts where there is no difference", ["of", *head], [row for row in rows if row not in found], note),
        table("Right verdicts where there is a difference of 3 points", ["of", *head], found),
        table("95 % intervals that hold the truth", ["of", *head], holds.rows(sizes)),
    ]
    return finish(args, tables=tables)


if __name__ == "__main__":
    raise SystemExit(main())
