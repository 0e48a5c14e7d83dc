"""The figure of merit by which the changes of cifar10-better are judged, from the results of `kedge reproduce`.

    python -m benchmarks.merit reproduce/cifar10-better-quick/results.json

Fixed before anything was run: the mean of corrupted accuracy and 100 - corrupted smooth ECE, in percent, for a variant
whose mean clean accuracy is at most half a point below that of masked-label. Those that start from a run of another are
set beside the ones that trained on for as long. Differences are taken seed by seed, with Student's 95 % interval where
there are two seeds or more; clean accuracy too is compared over the seeds that both have, as other seeds are another
mean. A run that lacks one of the three measures is left out. Prints the table and writes merit.json beside the results.
"""

import argparse
import json
import math
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kedge.experiments.comparing import mean_interval

BASE = "masked-label"
LONGER = {
    "converted": "standard-longer",
    "distilled": "masked-label-longer",
    "masked-label-longer": "standard-longer",
    "standard-longer": "masked-label-longer",
}
SLACK = 0.5  # points of clean accuracy
NEEDED = ("clean accuracy", "corrupted accuracy", "corrupted smooth ECE")
Runs = dict[int, dict[str, float]]  # seed to measures


def merit(measures: dict[str, float]) -> float:
    """The mean of corrupted accuracy and 100 - corrupted smooth ECE."""
    return (measures["corrupted accuracy"] + 100 - measures["corrupted smooth ECE"]) / 2


def judged(results: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each variant: merit, what it is made of, and its difference from what it changes.

    The best first: of the eligible ones the one with the largest difference, then the others. A mean over other seeds
    is another measure, so merits themselves have no order; without a seed in common nothing is eligible.
    """
    runs = {
        name: {run["seed"]: run["measures"] for run in each["runs"] if set(NEEDED) <= set(run["measures"])}
        for name, each in results["variants"].items()
    }
    rows = []
    for name, each in runs.items():
        if not each:
            continue
        base = LONGER.get(name, BASE)
        apart = _apart(each, runs.get(base, {}), merit)
        clean = _apart(each, runs.get(BASE, {}), lambda measures: measures["clean accuracy"])
        interval = mean_interval(apart)
        rows.append(
            {
                "variant": name,
                "seeds": sorted(each),
                "merit": statistics.fmean(map(merit, each.values())),
                **{key: statistics.fmean(measures[key] for measures in each.values())
                   for key in NEEDED},
                "over": base,
                "difference": statistics.fmean(apart) if apart else None,
                "interval": None if interval is None else list(interval),
                "eligible": bool(clean) and statistics.fmean(clean) >= -SLACK,
            }
        )  # fmt: skip
    return sorted(
        rows,
        key=lambda row: (row["eligible"], -math.inf if row["difference"] is None else row["difference"]),
        reverse=True,
    )


def _apart(ours: Runs, theirs: Runs, of: Callable[[dict[str, float]], float]) -> list[float]:
    """Differences, seed by seed of those that both have."""
    return [of(ours[seed]) - of(theirs[seed]) for seed in sorted(set(ours) & set(theirs))]


def main() -> int:
    """Print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, help="results.json of kedge reproduce cifar10-better")
    args = parser.parse_args()
    results = json.loads(args.results.read_text(encoding="utf-8"))
    rows = judged(results)
    print("| variant | seeds | clean acc | corrupted acc | corrupted smooth ECE | merit | difference | eligible |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for row in rows:
        numbers = [row[key] for key in ("clean accuracy", "corrupted accuracy", "corrupted smooth ECE", "merit")]
        apart = "" if row["difference"] is None else f"{row['difference']:+z.1f} over {row['over']}"
        if row["interval"]:
            apart += " [{:+z.1f}, {:+z.1f}]".format(*row["interval"])
        shown = " | ".join(f"{number:.1f}" for number in numbers)
        print(f"| {row['variant']} | {len(row['seeds'])} | {shown} | {apart} | {'yes' if row['eligible'] else 'no'} |")
    out = {"experiment": results["experiment"], "scale": results["scale"], "rows": rows}
    (args.results.parent / "merit.json").write_text(json.dumps(out, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
