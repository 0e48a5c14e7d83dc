"""ResNet-18 on CIFAR-10 by the recipe cifar10-fast, anchored and plain: accuracy on the test images, and wall time.

    KEDGE_DATA=path/to/packs python -m benchmarks.cifar10_fast --device cuda

The aim is 94.5 % or more as fast as one GPU can. It has not been run on a GPU: benchmarks/results holds no result of it
until somebody does. With --quick a very small network takes a few steps on made-up images: does it run.
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

import kedge.data
from benchmarks.pipeline import has_pack, in_memory
from benchmarks.side_by_side import finish, options, parser, table
from kedge import metrics
from kedge.data import ImageSet
from kedge.training import Recipe, fit, load_recipe
from kedge.training.calibration import predict_logits

AIM = 94.5  # percent of the test images
VARIANTS: dict[str, dict[str, Any]] = {
    "anchored": {},
    "plain": {"anchored": False, "objective": [{"CrossEntropy": {"label_smoothing": 0.1}}]},
}


def trained(recipe: Recipe, test: ImageSet, sets: tuple[ImageSet, ImageSet] | None) -> dict[str, float]:
    """What one run took and gives: seconds in all, seconds in epochs, epochs, percent of the test images."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        result = fit(replace(recipe, name="run", runs=folder), sets=sets, progress=False)
        whole = time.perf_counter() - began
        model = result.model.to(torch.device(recipe.device))
        logits, labels = predict_logits(model, test)
    return {
        "whole": whole,
        "training": sum(row["seconds"] for row in result.history),
        "epochs": float(len(result.history)),
        "accuracy": 100 * float(metrics.accuracy(logits.softmax(1), labels)),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, print, write the JSON."""
    args = options(parser("cifar10_fast", __doc__, rounds=3, quick=1), arguments)
    recipe = replace(load_recipe("cifar10-fast"), data="cifar10", device=args.device.type)
    sets: tuple[ImageSet, ImageSet] | None = None
    if args.quick:
        small: dict[str, Any] = {"model": "kedge_resnet_small", "arguments": {"width": 4}, "epochs": 1}
        recipe = replace(recipe, **small, batch_size=64)
        made = in_memory(320)
        sets, test = (made, made.subset(range(64))), made.subset(range(64))
    elif args.device.type == "cpu":
        print("cifar10_fast was not run: ResNet-18 for 30 epochs needs a GPU (--device cuda); --quick tries the code")
        return 0
    elif not has_pack("cifar10"):
        print("cifar10_fast was not run: it needs the cifar10 pack, a folder of $KEDGE_DATA")
        return 0
    else:
        test = kedge.data.load("cifar10", "test")
    runs: dict[str, list[dict[str, float]]] = {variant: [] for variant in VARIANTS}
    for seed in range(args.rounds):
        for variant, changes in VARIANTS.items():
            runs[variant].append(trained(replace(recipe, seed=seed, **changes), test, sets))
            print(f"seed {seed}, {variant}: {runs[variant][-1]}", file=sys.stderr)
    rows = []
    for variant, found in runs.items():
        accuracy = [run["accuracy"] for run in found]
        spread = f" ± {statistics.stdev(accuracy):.2f}" if len(accuracy) > 1 else ""
        seconds = [statistics.median(run[key] for run in found) for key in ("training", "whole")]
        reached = "yes" if statistics.mean(accuracy) >= AIM else "no"
        rows.append([variant, int(found[0]["epochs"]), f"{statistics.mean(accuracy):.2f}{spread}", reached, *seconds])
    head = ["", "epochs", "test accuracy, %", f"≥ {AIM} %", "seconds of training", "seconds with all else"]
    note = "Made-up images and a very small network: the numbers mean nothing." if args.quick else ""
    title = f"{recipe.model} on CIFAR-10, mean over {args.rounds} seeds, median seconds"
    return finish(args, tables=[table(title, head, rows, note)], runs=runs)


if __name__ == "__main__":
    sys.exit(main())
