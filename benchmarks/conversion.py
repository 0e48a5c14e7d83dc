"""Is converting enough? A plain model converted exactly and tuned for a while, against anchored training from scratch.

    KEDGE_DATA=path/to/packs python -m benchmarks.conversion

All arms take part in one budget of E + F epochs on CIFAR-10, counted in forward and backward passes of an image. The
first three share a plain network of E epochs and differ in what they do with the other F: go on as a plain network (the
control), or be converted (`kedge.anchor`, which changes no output) and go on anchored, with or without reference
masking. The other three train from random weights for E + F epochs. Each stage has a learning-rate schedule of its own,
so an arm of two stages is not one of E + F epochs that was broken off: that is what the control is for. Between arms of
one and of two stages the schedule and the peak learning rate differ too (0.1 from random weights, 0.02 after a start);
the third table therefore sets only arms side by side that have the same stages.

Finished runs are kept in --runs and not trained again; the result is written after each of them.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import kedge.data
from benchmarks.side_by_side import command, lines, table
from kedge.clock import now
from kedge.evaluation import evaluate
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.procedures._study import spread
from kedge.training import Recipe, RunResult, fit

RESULTS = Path(__file__).parent / "results"
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
SEVERITIES = (1, 3, 5)
PLAIN: dict[str, Any] = {"anchored": False, "objective": ["CrossEntropy"]}
ANCHORED: dict[str, Any] = {"anchored": True, "objective": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]}
MASKED: dict[str, Any] = {"anchored": True, "objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]}
# Name, whether it starts from the plain network of E epochs, what it trains then, how a table calls it.
ARMS = (
    ("plain-plain", True, PLAIN, "plain, gone on with as plain (control)"),
    ("plain-anchored", True, ANCHORED, "plain, converted, anchored α 0"),
    ("plain-masked", True, MASKED, "plain, converted, anchored α 0.25"),
    ("plain", False, PLAIN, "plain from scratch"),
    ("anchored", False, ANCHORED, "anchored α 0 from scratch"),
    ("masked", False, MASKED, "anchored α 0.25 from scratch"),
)
CONTRASTS = (
    ("converted, anchored α 0, less control", "plain-anchored", "plain-plain"),
    ("anchored α 0 from scratch, less plain from scratch", "anchored", "plain"),
    ("converted, anchored α 0.25, less control", "plain-masked", "plain-plain"),
    ("anchored α 0.25 from scratch, less plain from scratch", "masked", "plain"),
)
COLUMNS = ("clean accuracy", "corrupted accuracy", "clean ECE", "corrupted ECE")


def trained(recipe: Recipe, **given: Any) -> RunResult:
    """The run of this recipe: as it is if it has finished, gone on with if it was broken off, else a new one.

    Raises ValueError if the run that is there has another recipe.
    """
    folder = Path(recipe.runs) / str(recipe.name)
    return fit(recipe, resume=folder, **given) if folder.is_dir() else fit(recipe, **given)


def measure(model: Any, test: Any, limit: int) -> dict[str, float]:
    """One row, in percent: all clean test images, `limit` corrupted ones; anchored models use one reference."""
    one: dict[str, Any] = {"references": 1} if hasattr(model, "references") else {}
    quick: dict[str, Any] = {"resamples": 0, "examples": 0, **one}
    clean = evaluate({"m": model}, test, shift=(), **quick)["models"]["m"]["clean"]
    found = evaluate({"m": model}, test, shift=CORRUPTIONS, severities=SEVERITIES, limit=limit, **quick)
    mean = found["models"]["m"]["shift"]["mean"]
    values = (clean["accuracy"], mean["accuracy"], clean["ece"], mean["ece"])
    return {name: 100 * value["value"] for name, value in zip(COLUMNS, values, strict=True)}


def recipe_of(args: argparse.Namespace, seed: int, name: str, epochs: int, changes: dict[str, Any]) -> Recipe:
    """One training; what an arm starts from decides the network where there is such."""
    network = {} if "init_from" in changes else {"model": args.model, "arguments": {"width": args.width}}
    return Recipe.from_dict(
        {"data": "cifar10", "epochs": epochs, "seed": seed, "runs": str(args.runs), "name": name, **network, **changes}
    )


def tables(rows: dict[str, list[dict[str, float]]]) -> list[dict[str, Any]]:
    """Mean ± standard deviation over seeds, and what each arm differs from the control by, in the same seeds."""
    names = {name: words for name, _, _, words in ARMS}
    means, differences = [], []
    control = rows.get("plain-plain", [])
    for name, runs in rows.items():
        if not runs:
            continue
        passes = f"{runs[0]['passes'] / 1e3:,.0f}"
        means.append([names[name], passes, len(runs), *(spread([run[c] for run in runs]) for c in COLUMNS)])
        pairs = list(zip(runs, control, strict=False))
        if name != "plain-plain" and pairs:
            differences.append([names[name], *_contrast(pairs)])
    # Both sides of each pair have the same stages, schedules and learning rates, and differ in anchoring alone.
    contrasts = []
    for words, one, other in CONTRASTS:
        pairs = list(zip(rows.get(one, []), rows.get(other, []), strict=False))
        if pairs:
            contrasts.append([words, len(pairs), *_contrast(pairs)])
    head = [f"{c}, %" for c in COLUMNS]
    return [
        table("At equal cost", ["training", "passes, thousands", "seeds", *head], means),
        table("Against the control, points, in the same seeds", ["training", *head], differences),
        table("Anchoring alone, the schedule the same on both sides, points", ["contrast", "seeds", *head], contrasts),
    ]


def _contrast(pairs: Sequence[tuple[dict[str, float], dict[str, float]]]) -> list[str]:
    """One less the other in the same seeds, for each column."""
    return [spread([one[c] - other[c] for one, other in pairs], "+") for c in COLUMNS]


def stage_of(recipe: Recipe) -> dict[str, Any]:
    """What a stage of training was, for the record: its peak learning rate and its epochs."""
    return {"epochs": recipe.epochs, "lr": recipe.lr, "schedule": recipe.schedule}


def main() -> None:
    """Train, evaluate, print the tables, write the JSON after each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="kedge_resnet_small")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--first", type=int, default=3, help="E: epochs of the plain network that is converted")
    parser.add_argument("--then", type=int, default=2, help="F: epochs after that")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--limit", type=int, default=1000, help="test images under corruption")
    parser.add_argument("--images", type=int, default=None, help="training images; default: all")
    parser.add_argument("--runs", type=Path, default=Path("runs/conversion"), help="where the runs are kept")
    parser.add_argument("--quick", action="store_true", help="one epoch each, one seed, few images: does it run?")
    parser.add_argument("--out", type=Path, default=None, help="default benchmarks/results/conversion.json")
    args = parser.parse_args()
    if args.quick:
        args.first, args.then, args.seeds, args.limit, args.images = 1, 1, 1, 100, 1000
        args.runs = args.runs / "quick"
    out = args.out or (None if args.quick else RESULTS / "conversion.json")
    test = kedge.data.load("cifar10", "test")
    test = test.subset(range(args.limit)) if args.quick else test
    train, val = kedge.data.split_validation(kedge.data.load("cifar10", "train"), 0.1, seed=0)
    train = train if args.images is None else train.subset(range(args.images))
    given: dict[str, Any] = {"sets": (train, val), "progress": False, "report": False}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name, *_ in ARMS}
    stages: dict[str, list[dict[str, Any]]] = {}
    for seed in range(args.seeds):
        first = trained(recipe_of(args, seed, f"first-{seed}", args.first, PLAIN), **given)
        for name, goes_on, changes, words in ARMS:
            changes = {**changes, "init_from": str(args.runs / f"first-{seed}")} if goes_on else changes
            epochs = args.then if goes_on else args.first + args.then
            began = time.perf_counter()
            result = trained(recipe_of(args, seed, f"{name}-{seed}", epochs, changes), **given)
            cost = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))["cost"]
            passes = cost["passes"] + cost["earlier"]
            stages[name] = [stage_of(run.recipe) for run in ([first, result] if goes_on else [result])]
            rows[name].append({**measure(result.model, test, args.limit), "passes": passes})
            print(f"seed {seed}, {words}: {time.perf_counter() - began:.0f} s, {rows[name][-1]}", file=sys.stderr)
            record = _record(args, rows, stages, len(train))
            if out is not None:
                write_text(out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(lines(record)))


def _record(
    args: argparse.Namespace,
    rows: dict[str, list[dict[str, float]]],
    stages: dict[str, list[dict[str, Any]]],
    images: int,
) -> dict[str, Any]:
    keys = ("model", "width", "first", "then", "seeds", "limit")
    return {
        "name": "conversion",
        "command": command("conversion"),
        "created": now(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "device": "cpu",
        "settings": {**{key: getattr(args, key) for key in keys}, "training images": images,
                     "corruptions": CORRUPTIONS, "severities": SEVERITIES},
        "corruptions": "generated, not the published CIFAR-10-C files",
        "stages": stages,
        "percent": rows,
        "rows": [],
        "tables": tables(rows),
    }  # fmt: skip


if __name__ == "__main__":
    main()
