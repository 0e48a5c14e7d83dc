"""What `kedge quickstart` shows, over more seeds than it has time for, and within which limits other machines see it.

    python -m benchmarks.quickstart --runs FOLDER     trains what is missing there, writes results/quickstart.json
    python -m benchmarks.quickstart --text            writes its numbers into README.md and docs/start.md
    python -m benchmarks.quickstart --check runs/quickstart/results.json

The trainings are those of the quickstart, with more ways of masking; those `elsewhere` ran with other kernels of the
CPU (AVX2 in place of what the processor offers), whose rounding is that of another machine. The limits are those of
the mean of one quickstart's group: prediction intervals (Student's t over the seeds), so wide that all of a method hold
at once in 19 of 20 quickstarts (Bonferroni).
"""

import argparse
import itertools
import json
import math
import os
import re
import shlex
import statistics
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from scipy.stats import t

from kedge.cli import quickstart
from kedge.files import write_text
from kedge.training import Recipe

ROOT = Path(__file__).parents[1]
RESULT = Path(__file__).parent / "results" / "quickstart.json"
PAGES = ("README.md", "docs/start.md")
STANDARD = "standard"
LEVEL = 0.95
AVX2 = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
VARIANTS: dict[str, list[Any]] = {
    STANDARD: ["CrossEntropy"],
    "anchored, not masked": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"],
    "masked, uniform": [{"Anchored": {"alpha": 0.25, "mask_target": "uniform"}}, "CrossEntropy"],
    "masked, label": [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"],
}
FOLDERS = {
    STANDARD: "standard",
    "anchored, not masked": "alpha0",
    "masked, uniform": "uniform",
    "masked, label": "label",
}
OUTSIDE = "digits 8 and 9"
# key in the results: (words, decimals)
MEASURES = {
    "accuracy, clean": "accuracy on clean digits",
    "accuracy, corrupted": "accuracy under noise and blur",
    "smooth_ece, corrupted": "calibration error under noise and blur (smooth)",
    f"auroc, {OUTSIDE}": "digits told from 8s and 9s by confidence (AUROC)",
    f"answered, {OUTSIDE}": "8s and 9s that are answered all the same",
}


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quickstart",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--runs", type=Path, default=None, help="folder of the trainings; what is there is not redone")
    parser.add_argument("--seeds", default="0,1,2,3,4,5,6,7,8,9,100,101,102,103")
    parser.add_argument("--elsewhere", default="0,1,2,3", help="seeds that are trained with AVX2 as well")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--text", action="store_true", help="write the numbers into the pages, and train nothing")
    parser.add_argument("--check", type=Path, default=None, help="results.json of a quickstart, to hold to the limits")
    args = parser.parse_args(arguments)
    if args.check is not None:
        return check(json.loads(RESULT.read_text(encoding="utf-8")), json.loads(args.check.read_text(encoding="utf-8")))
    if args.runs is not None:
        numbers = [[int(word) for word in given.split(",") if word] for given in (args.seeds, args.elsewhere)]
        words = ["python -m benchmarks.quickstart", *map(shlex.quote, sys.argv[1:])]
        record = measured(args.runs, *numbers, args.jobs, " ".join(words))
        write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
        print("\n".join(lines(record)))
    elif not args.text:
        parser.error("name --runs, --text or --check")
    if args.text:
        record = json.loads(RESULT.read_text(encoding="utf-8"))
        for page in PAGES:
            text = (ROOT / page).read_text(encoding="utf-8")
            write_text(ROOT / page, filled(text, passage(record)))
    return 0


def measured(runs: Path, seeds: Sequence[int], elsewhere: Sequence[int], jobs: int, command: str) -> dict[str, Any]:
    """Train what is missing, evaluate all on the same images, compare each variant with the others."""
    from kedge.clock import now
    from kedge.evaluation.provenance import machine
    from kedge.reporting.claims import compared

    places = {"here": runs, "elsewhere": runs / "elsewhere"}
    _train_missing(places["here"], seeds, jobs, {})
    _train_missing(places["elsewhere"], elsewhere, jobs, AVX2)
    here, found = _evaluated(places["here"])
    away, _ = _evaluated(places["elsewhere"])
    record: dict[str, Any] = {
        "name": "quickstart",
        "command": command,
        "created": now(),
        "machine": machine(),
        "seeds_of_a_quickstart": quickstart.SEEDS,
        "corruptions": list(quickstart.CORRUPTIONS),
        "variants": {
            name: {"objective": VARIANTS[name], "runs": here[name], "elsewhere": away.get(name, [])} for name in here
        },
        "limits": {name: limits([run["measures"] for run in [*here[name], *away.get(name, [])]]) for name in here},
        "comparisons": [
            {key: test[key] for key in ("a", "b", "metric", "where", "difference", "p", "adjusted", "test", "n")}
            for test in compared(found)
            if "over seeds" in test["test"] and f"{test['metric']}, {test['where']}" in MEASURES
        ],
    }
    record["correlation"] = {name: _correlation(here[STANDARD], here[name]) for name in here if name != STANDARD}
    record["called_different"] = {name: _called_different(here[name]) for name in here}
    return record


def _train_missing(folder: Path, seeds: Sequence[int], jobs: int, environment: Mapping[str, str]) -> None:
    (standard,) = (r for r in quickstart.recipes(folder, seeds=1) if not r.anchored)
    todo = [
        replace(standard, name=name, seed=seed, anchored=variant != STANDARD, objective=VARIANTS[variant])
        for seed in seeds
        for variant in VARIANTS
        if not (folder / (name := f"{FOLDERS[variant]}-{seed}") / "model" / "config.json").is_file()
    ]
    if not todo:
        return
    before = {key: os.environ.get(key) for key in (*environment, "OMP_NUM_THREADS")}
    os.environ.update({"OMP_NUM_THREADS": "1", **environment})  # read by a process as it starts
    try:
        with ProcessPoolExecutor(jobs, get_context("spawn")) as pool:
            for name in pool.map(_train, todo):
                print(f"{name} trained", flush=True)
    finally:
        for key, value in before.items():
            os.environ.pop(key) if value is None else os.environ.update({key: value})


def _train(recipe: Recipe) -> str:
    from kedge.training import fit

    with quickstart.quiet(), quickstart.one_thread():
        fit(recipe, progress=False, report=False)
    return str(recipe.name)


def _evaluated(folder: Path) -> tuple[dict[str, list[dict[str, Any]]], dict[str, Any]]:
    """Variant to its runs in order of seeds, and the results of the evaluation."""
    import kedge

    names: dict[str, list[str]] = {}
    for variant, start in FOLDERS.items():
        own = [p.name for p in folder.glob(f"{start}-*") if (p / "model" / "config.json").is_file()]
        if own:
            names[variant] = sorted(own, key=_seed)
    models = {name: kedge.load(folder / name / "model") for own in names.values() for name in own}
    with quickstart.one_thread():
        results = quickstart.measure(models, 0, folder, groups=names, examples=0)
    return {
        variant: [{"seed": _seed(name), "measures": _measures(results["models"][name])} for name in own]
        for variant, own in names.items()
    }, results


def _seed(name: str) -> int:
    return int(name.rpartition("-")[2])


def _measures(entry: Mapping[str, Any]) -> dict[str, float]:
    """By the keys of a quickstart's table of groups, in percent."""
    outside = entry["ood"][OUTSIDE]
    found = {
        "accuracy, clean": entry["clean"]["accuracy"]["value"],
        "accuracy, corrupted": entry["shift"]["mean"]["accuracy"]["value"],
        "smooth_ece, corrupted": entry["shift"]["mean"]["smooth_ece"]["value"],
        f"auroc, {OUTSIDE}": outside["scores"]["msp"]["auroc"]["value"],
        f"answered, {OUTSIDE}": outside["accepted"],
    }
    return {key: round(100 * value, 4) for key, value in found.items()}


def limits(runs: Sequence[Mapping[str, float]], group: int = quickstart.SEEDS) -> dict[str, list[float]]:
    """Within which the means of `group` new trainings lie, all at once in 19 of 20 cases; outwards to 0.1."""
    found = {}
    level = 1 - (1 - LEVEL) / len(MEASURES)
    for key in MEASURES:
        values = [run[key] for run in runs]
        reach = float(t.ppf((1 + level) / 2, len(values) - 1)) * statistics.stdev(values)
        reach *= math.sqrt(1 / group + 1 / len(values))
        mean = statistics.fmean(values)
        low, high = math.floor(10 * (mean - reach)) / 10, math.ceil(10 * (mean + reach)) / 10
        found[key] = [max(0.0, low), min(100.0, high)]
    return found


def _correlation(standard: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Of the measures of two variants over the seeds that both have: what a test paired by seeds would gain from."""
    one, two = ({run["seed"]: run["measures"] for run in runs} for runs in (standard, other))
    shared = sorted(set(one) & set(two))
    return {key: round(statistics.correlation([one[s][key] for s in shared], [two[s][key] for s in shared]), 2)
            for key in MEASURES}  # fmt: skip


def _called_different(runs: Sequence[Mapping[str, Any]], group: int = quickstart.SEEDS) -> dict[str, float]:
    """In which share of the ways to split the runs of one variant into two groups Welch's p over seeds is below 0.05.

    The test of the report also counts the chance of the images, so it says so less often.
    """
    from kedge.evaluation.comparing import welch

    values = [run["measures"] for run in runs][: 2 * group]
    places = range(len(values))
    splits = [one for one in itertools.combinations(places, len(values) // 2) if 0 in one]
    found = {}
    for key in MEASURES:
        tests = [
            welch([[values[i][key] for i in one], [values[i][key] for i in places if i not in one]]) for one in splits
        ]
        found[key] = round(sum(test is not None and test["p"] < 1 - LEVEL for test in tests) / len(tests), 3)
    return found


def default_variant(record: Mapping[str, Any]) -> str:
    """The variant that `kedge train`, and so the quickstart, trains when it anchors small images.

    Raises LookupError where it has not been measured.
    """
    from kedge import objectives
    from kedge.data import load
    from kedge.training.resolve import resolve_data

    digits = load("digits", "train")
    shape = tuple(digits.image_shape)
    recipe = resolve_data(Recipe(data="digits", anchored=True, device="cpu"), len(digits), shape)  # type: ignore[arg-type]

    def facts(entries: Any) -> tuple[Any, ...]:
        spec = next(iter(e["Anchored"] for e in entries if isinstance(e, dict) and "Anchored" in e), {})
        made = objectives.Anchored(objectives.CrossEntropy(), **spec)
        masked = made.alpha > 0
        return made.alpha, masked and made.mask_target, masked and made.mask_per, len(entries)

    for name, variant in record["variants"].items():
        if name != STANDARD and facts(variant["objective"]) == facts(recipe.objective):
            return str(name)
    raise LookupError(
        f"the default objective {recipe.objective} is none of {', '.join(record['variants'])}: measure it"
    )


def passage(record: Mapping[str, Any]) -> str:
    """The numbers of the quickstart for the pages, as Markdown."""
    anchored = default_variant(record)
    rows = [
        f"| {words}, % | {' | '.join(_span(record['limits'][name][key]) for name in (STANDARD, anchored))} |"
        for key, words in MEASURES.items()
    ]
    head = ["| mean of four trainings | standard | anchored |", "| --- | ---: | ---: |"]
    return "\n".join(["", *head, *rows, ""])


def _span(ends: Sequence[float]) -> str:
    return f"{ends[0]:.1f} to {ends[1]:.1f}"


def filled(text: str, numbers: str) -> str:
    """A page with the numbers between its marks. Raises LookupError where it has none."""
    found, count = re.subn(
        r"(<!-- quickstart: begin[^\n]*-->\n).*?(<!-- quickstart: end -->)",
        lambda marks: f"{marks[1]}{numbers}\n{marks[2]}",
        text,
        flags=re.DOTALL,
    )
    if count != 1:
        raise LookupError("the page has no marks <!-- quickstart: begin --> and <!-- quickstart: end -->, or several")
    return found


def outside_limits(record: Mapping[str, Any], table: Mapping[str, Any]) -> list[str]:
    """Which means of a quickstart's table of groups are not within the limits, in words."""
    said = []
    for group, variant in ((STANDARD, STANDARD), ("anchored", default_variant(record))):
        for key, (low, high) in record["limits"][variant].items():
            mean = 100 * table[group][key]["mean"]
            if not low <= mean <= high:
                said.append(f"{group}, {MEASURES[key]}: {mean:.2f} is not within {low:g} to {high:g}")
    return said


def check(record: Mapping[str, Any], results: Mapping[str, Any]) -> int:
    said = outside_limits(record, results["group_table"])
    print("\n".join(said) or "all means of this quickstart are within the limits that README.md states")
    return 1 if said else 0


def lines(record: Mapping[str, Any]) -> list[str]:
    """The record as Markdown."""
    names = list(record["variants"])
    said = [f"| | {' | '.join(names)} |", f"| --- |{' ---: |' * len(names)}"]
    for key, words in MEASURES.items():
        cells = []
        for name in names:
            values = [run["measures"][key] for run in record["variants"][name]["runs"]]
            cells.append(f"{statistics.fmean(values):.2f} ± {statistics.stdev(values):.2f} ({len(values)})")
        said.append(f"| {words} | {' | '.join(cells)} |")
    for test in record["comparisons"]:
        d = {key: f"{100 * value:+.2f}" for key, value in test["difference"].items()}
        what = f"{test['a']} − {test['b']}, {test['metric']}, {test['where']}"
        said.append(f"{what}: {d['value']} [{d['low']}, {d['high']}], p {test['p']:.3f}, Holm {test['adjusted']:.3f}")
    return said


if __name__ == "__main__":
    sys.exit(main())
