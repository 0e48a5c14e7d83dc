"""How often the verdicts of `kedge check` are false, in simulation.

    python -m benchmarks.gate

Sets of images are drawn from models whose true accuracy, calibration error and so on are known, below, at and above a
bar. What `kedge evaluate` would write of each set is judged as `kedge check` judges it. A verdict is false where it
passes a model that is worse than the bar, or fails one that is at it or better; it promises to be so in at most 2.5 %
of sets. At the bar itself both shares are shown, for a model that is worse by nothing that can be seen passes as often.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from benchmarks.side_by_side import lines, options, parser, table, write
from kedge.evaluation.model_summary import selective_summary
from kedge.gate import CRITERIA, FAIL, PASS
from kedge.gate.verdicts import said
from kedge.metrics._base import Answers, metric
from kedge.metrics._summary import numbers

SIZES = (50, 200, 1000)
PROMISED = 0.025
CLASSES = 6
CONDITIONS = 5
AT_ONCE = 100  # sets whose resamples are drawn together
Sets = Callable[[int, int, float, torch.Generator], Iterator[tuple[dict[str, Any], dict[str, Any]]]]


def results_of(size: int) -> dict[str, Any]:
    names = [str(c) for c in range(CLASSES)]
    sets = {"one": {"images": size // 2}, "other": {"images": size - size // 2}}
    return {"data": {"images": size, "class_names": names}, "ood_sets": sets}


def accuracies(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Every image is right with the same chance."""
    for right in (torch.rand(rounds, size, generator=generator) < truth).sum(1).tolist():
        yield results_of(size), {"clean": {"accuracy": {"value": right / size}}}


def classes(all_alike: bool) -> Sets:
    """Six classes, as many images of each as chance brings; all as good as the worst, or one alone."""

    def sets(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
        chances = torch.full((CLASSES,), truth)
        if not all_alike:
            chances[1:] = min(1.0, truth + 0.15)
        for _ in range(rounds):
            own = torch.randint(CLASSES, (size,), generator=generator)
            right = torch.rand(size, generator=generator) < chances[own]
            images = torch.bincount(own, minlength=CLASSES)
            hits = torch.bincount(own[right], minlength=CLASSES)
            shares = [h / n if n else None for h, n in zip(hits.tolist(), images.tolist(), strict=True)]
            yield results_of(size), {"clean": {"accuracy_by_class": {"images": images.tolist(), "accuracy": shares}}}

    return sets


def surest(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Wrong the more often the less sure: of the surest 80 % as often as `truth` says."""
    for _ in range(rounds):
        place = torch.rand(size, generator=generator, dtype=torch.float64)  # 0: the surest
        wrong = torch.rand(size, generator=generator) < (3 * truth * (place / 0.8) ** 2).clamp(max=1)
        columns = {"confidence": 1 - place, "log_odds": 1 - place, "rank": wrong.long()}
        yield results_of(size), {"selective": selective_summary(None, {}, columns, [], {}, columns)}


def calibration(bent: bool) -> Sets:
    """Confidences between 0.5 and 1, too sure by `truth` everywhere, or on average and most in the middle."""

    def sets(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
        for start in range(0, rounds, AT_ONCE):
            samples = []
            for _ in range(min(AT_ONCE, rounds - start)):
                f = 0.5 + 0.5 * torch.rand(size, generator=generator, dtype=torch.float64)
                gap = truth * (f - 0.5) * (1 - f) / (0.25 / 6) if bent else truth
                right = torch.rand(size, generator=generator, dtype=torch.float64) < (f - gap).clamp(0, 1)
                samples.append(Answers({"confidence": f, "rank": (~right).long()}))
            for entry in each_estimate(samples, "ece"):
                yield results_of(size), {"clean": {"ece": entry}}

    return sets


def foreign(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Two sets of half the images, of both of which as many are answered."""
    halves = [record["images"] for record in results_of(size)["ood_sets"].values()]
    for _ in range(rounds):
        shares = [float((torch.rand(n, generator=generator) < truth).double().mean()) for n in halves]
        yield results_of(size), {"ood": dict(zip(("one", "other"), ({"accepted": s} for s in shares), strict=True))}


def corrupted(rounds: int, size: int, truth: float, generator: torch.Generator) -> Iterator[tuple[Any, Any]]:
    """Five corruptions of the same images, some of which are harder than others under all of them."""
    # Right where image + condition + noise is below a threshold: all normal, the image's part half of the variance.
    threshold = math.sqrt(2) * math.sqrt(2) * float(torch.special.erfinv(torch.tensor(2 * truth - 1)))
    for start in range(0, rounds, AT_ONCE):
        count = min(AT_ONCE, rounds - start)
        image = torch.randn(count, 1, size, generator=generator)
        right = image + torch.randn(count, CONDITIONS, size, generator=generator) < threshold
        samples = [Answers({"rank": (~each).long()}) for each in right.flatten(0, 1)]
        for mean in each_estimate(samples, "accuracy", CONDITIONS):
            yield results_of(size), {"shift": {"mean": {"accuracy": mean}}}


def each_estimate(samples: list[Answers], name: str, together: int = 1) -> Iterator[dict[str, Any]]:
    """What results say of a metric of each of the samples, or of the mean over as many that are together."""
    one = metric(name)
    assert one is not None
    measured = numbers(samples, [one])
    for start in range(0, len(samples), together):
        yield measured.of(range(start, start + together)).results()[one.key]


# (words, criterion, bar, true values from bad to good; the one in the middle is the bar, sets)
CASES: tuple[tuple[str, str, Any, tuple[float, ...], Sets], ...] = (
    ("accuracy", "min_accuracy", 0.9, (0.80, 0.87, 0.9, 0.93, 0.97), accuracies),
    ("accuracy", "min_accuracy", 0.98, (0.93, 0.96, 0.98, 0.99, 0.999), accuracies),
    ("worst of 6 classes, all alike", "worst_class", 0.7, (0.5, 0.6, 0.7, 0.8, 0.9), classes(all_alike=True)),
    ("worst of 6 classes, one below", "worst_class", 0.7, (0.5, 0.6, 0.7, 0.8, 0.9), classes(all_alike=False)),
    ("wrong among the surest 80 %", "min_coverage", "0.8@risk0.05", (0.15, 0.08, 0.05, 0.03, 0.01), surest),
    ("wrong among the surest 80 %", "min_coverage", "0.8@risk0.02", (0.06, 0.03, 0.02, 0.01, 0.002), surest),
    ("ECE, too sure everywhere", "max_ece", 0.05, (0.08, 0.05, 0.03), calibration(bent=False)),
    ("ECE, too sure in the middle", "max_ece", 0.05, (0.08, 0.05, 0.03), calibration(bent=True)),
    ("foreign answered, higher of 2 sets", "max_unknown_answered", 0.1, (0.25, 0.15, 0.1, 0.06, 0.02), foreign),
    ("accuracy, 5 corruptions", "min_corrupted_accuracy", 0.7, (0.55, 0.65, 0.7, 0.75, 0.85), corrupted),
    ("accuracy, 5 corruptions", "min_corrupted_accuracy", 0.95, (0.85, 0.92, 0.95, 0.97, 0.99), corrupted),
)  # fmt: skip


def shares(name: str, written: Any, sets: Sets, rounds: int, size: int, truth: float, seed: int) -> dict[str, float]:
    """How often the verdict is "pass", "fail" and "cannot tell"."""
    criterion = next(each for each in CRITERIA if each.name == name)
    bar = criterion.bar(written)
    counts: dict[str, int] = {}
    for results, model in sets(rounds, size, truth, torch.Generator().manual_seed(seed)):
        measured = criterion.measured(results, model, bar)
        assert measured is not None
        assert measured.ends is not None
        verdict = said(*measured.ends(1), bar.share, criterion.better)
        counts[verdict] = counts.get(verdict, 0) + 1
    return {verdict: count / rounds for verdict, count in counts.items()}


def rows_of(task: tuple[int, int, int]) -> list[list[Any]]:
    """The rows of a case at a size, from (place in `CASES`, size, rounds)."""
    torch.set_num_threads(1)
    case, size, rounds = task
    words, name, written, truths, sets = CASES[case]
    rows = []
    for place, truth in enumerate(truths):
        found = shares(name, written, sets, rounds, size, truth, 1000 * case + 10 * SIZES.index(size) + place)
        passed, failed = found.get(PASS, 0.0), found.get(FAIL, 0.0)
        middle = len(truths) // 2
        false = passed if place < middle else failed if place > middle else max(passed, failed)
        rows.append([words, written, size, truth, passed, failed, round(1 - passed - failed, 6), false])
    print(*rows, sep="\n", flush=True, file=sys.stderr)
    return rows


def main(arguments: list[str] | None = None) -> int:
    made = parser("gate", __doc__, rounds=2000, quick=20)
    made.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    args = options(made, arguments)
    tasks = [(case, size, args.rounds) for case in range(len(CASES)) for size in SIZES]
    done: dict[tuple[int, int, int], list[list[Any]]] = {}
    with ProcessPoolExecutor(args.jobs, multiprocessing.get_context("fork")) as pool:
        running = {pool.submit(rows_of, task): task for task in tasks}
        for each in as_completed(running):
            done[running[each]] = each.result()
            record = write(
                args, tables=tables_of(done, args.rounds), promised=PROMISED, complete=len(done) == len(tasks)
            )
    print("\n".join(lines(record)))
    return 0


def tables_of(done: dict[tuple[int, int, int], list[list[Any]]], rounds: int) -> list[dict[str, Any]]:
    """All rows so far, and those whose share of false verdicts is beyond what is promised by more than chance."""
    rows = [row for task in sorted(done) for row in done[task]]
    slack = 3 * math.sqrt(PROMISED * (1 - PROMISED) / rounds)
    beyond = [row for row in rows if row[-1] > PROMISED + slack]
    head = ["judged", "bar", "images", "truth", "pass", "fail", "cannot tell", "false verdicts"]
    note = (
        f"{rounds:,} sets of each kind; a false verdict is promised in at most {100 * PROMISED:.1f} % of sets; "
        f"beyond that by more than chance: {len(beyond)} of {len(rows)} rows."
    )
    return [table("Verdicts of kedge check", head, rows, note), table("Beyond what is promised", head, beyond)]


if __name__ == "__main__":
    raise SystemExit(main())
