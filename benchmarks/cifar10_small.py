"""Standard, anchored and anchored with reference masking, on CIFAR-10 with a small residual network.

    KEDGE_DATA=path/to/packs python -m benchmarks.cifar10_small

Three variants and three seeds of 5 epochs of kedge_resnet_small at width 16, the variants one after another within each
seed. Networks this small and trainings this short are far from the authors' ResNet-18 at 200 epochs: the table says
what happens here, not what happens there.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import kedge.data
from benchmarks.side_by_side import command
from kedge.clock import now
from kedge.evaluation import evaluate
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.scores import MSP, Disagreement, Energy
from kedge.training import Recipe, fit

RESULTS = Path(__file__).parent / "results"
VARIANTS: dict[str, dict[str, Any]] = {
    "standard": {"anchored": False},
    "anchored": {"objective": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]},
    "masked": {"objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]},
}
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
NAMES = {"standard": "standard", "anchored": "anchored, α 0", "masked": "anchored, α 0.25 uniform per sample"}


def measure(model: Any, test: Any, outside: Any, limit: int) -> dict[str, float]:
    """The row of one model, in percent; anchored models use one reference except for disagreement (ten)."""
    one: dict[str, Any] = {"references": 1} if hasattr(model, "references") else {}
    quick: dict[str, Any] = {"resamples": 0, "examples": 0}
    clean = evaluate({"m": model}, test, shift=(), **quick, **one)["models"]["m"]["clean"]
    shift = evaluate({"m": model}, test, shift=CORRUPTIONS, limit=limit, **quick, **one)["models"]["m"]["shift"]
    told = [MSP(), Energy(), Disagreement()]
    away = evaluate({"m": model}, test, shift=(), ood=outside, scores=told, limit=limit, **quick)["models"]["m"]["ood"]
    row = {
        "clean accuracy": clean["accuracy"]["value"],
        "clean ECE": clean["ece"]["value"],
        "corrupted accuracy": shift["mean"]["accuracy"]["value"],
        "corrupted ECE": shift["mean"]["ece"]["value"],
        **{f"severity {r['severity']} accuracy": r["accuracy"]["value"] for r in shift["by_severity"]},
    }
    for name, found in away.items():
        row.update({f"{name} AUROC, {score}": values["auroc"]["value"] for score, values in found["scores"].items()})
    return {name: 100 * value for name, value in row.items()}


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean ± standard deviation over seeds, variants side by side."""
    names = list(dict.fromkeys(name for runs in rows.values() for run in runs for name in run))
    lines = ["| % | " + " | ".join(NAMES[v] for v in rows) + " |", "| --- |" + " ---: |" * len(rows)]
    for name in names:
        cells = []
        for runs in rows.values():
            values = [run[name] for run in runs if name in run]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Train, evaluate, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--limit", type=int, default=2000, help="test images under corruption and for OOD")
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed, few images: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "cifar10_small.json")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.seeds, args.limit = 1, 1, 200
    test, outside = kedge.data.load("cifar10", "test"), kedge.data.load("cifar100", "test")
    rows: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    seconds: dict[str, list[float]] = {variant: [] for variant in VARIANTS}
    settings = {"epochs": args.epochs, "width": args.width, "limit": args.limit, "network": "kedge_resnet_small"}
    for seed in range(args.seeds):
        for variant, changes in VARIANTS.items():
            with tempfile.TemporaryDirectory() as folder:
                recipe = Recipe(
                    data="cifar10", model="kedge_resnet_small", arguments={"width": args.width}, epochs=args.epochs,
                    seed=seed, runs=folder, name=variant, **changes,
                )  # fmt: skip
                started = time.perf_counter()
                result = fit(recipe, progress=False)
                seconds[variant].append(time.perf_counter() - started)
                rows[variant].append(measure(result.model, test, outside, args.limit))
            print(f"seed {seed}, {NAMES[variant]}: {seconds[variant][-1]:.0f} s, {rows[variant][-1]}", file=sys.stderr)
        # Written after every seed: a run that is broken off leaves what it has.
        record = {
            "command": command("cifar10_small"),
            "created": now(),
            "machine": machine(),
            "settings": settings,
            "seeds": seed + 1,
            "corruptions": "generated, not the published CIFAR-10-C files",
            "variants": NAMES,
            "percent": rows,
            "training_seconds": seconds,
            "table": table(rows).splitlines(),
        }
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
