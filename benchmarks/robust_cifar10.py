"""Adversarial fine-tuning against adversarial training from scratch, on a CPU-sized part of CIFAR-10.

    KEDGE_DATA=path/to/packs python -m benchmarks.robust_cifar10

{from scratch, fine-tuned from a natural model} x {constant, step, cosine, slow start and fast decay} for 10 epochs of
the same attack, three seeds, and beside them, for one seed, 80 epochs from scratch with the usual steps of the rate:
8 times the adversarial epochs, 4.6 times the passes of natural training and fine-tuning together. One highest rate for
all cells, tuned for none. 3,000 training images, kedge_resnet_small of width 16, PGD-3 at ε 8/255 in training, all
judged on 1,000 test images under PGD-20. A table of this size says what happens here, not with a ResNet-18 on all of
CIFAR-10.

Each finished cell is written at once, and cells that the file holds are not run again.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import kedge
import kedge.data
from benchmarks.side_by_side import command
from kedge.attacks import PGD
from kedge.clock import now
from kedge.data import ImageSet
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.training import Recipe, fit

RESULTS = Path(__file__).parent / "results"
EPS = 8 / 255
ATTACK = {"PGD": {"eps": EPS, "steps": 3, "step_size": EPS / 2}}
SCHEDULES: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "constant", "warmup": 0.0},
    "step": {"schedule": "multistep", "milestones": [5, 8], "gamma": 0.1, "warmup": 0.0},
    "cosine": {"schedule": "cosine", "warmup": 0.0},
    "slow start, fast decay": {"schedule": "slow-start-fast-decay"},
}
LONG = {"schedule": "multistep", "milestones": [40, 60], "gamma": 0.1, "warmup": 0.0, "epochs": 80}
# Seconds are in the rows and not in the table: they are those of a machine with other work to do.
COLUMNS = ("clean", "PGD-20", "clean, last", "PGD-20, last", "passes per image")


def cells(seeds: int, long: int) -> list[tuple[int, str, dict[str, Any]]]:
    """(seed, name, changes to the recipe) in the order in which they run: seed by seed, the long ones last."""
    every = [
        (f"{start}, {name}", changes) for start in ("fine-tuned", "from scratch") for name, changes in SCHEDULES.items()
    ]
    short = [(seed, name, changes) for seed in range(seeds) for name, changes in every]
    return short + [(seed, "from scratch, 80 epochs, step", LONG) for seed in range(long)]


def accuracies(model: Any, test: ImageSet) -> tuple[float, float]:
    """Percent right on the test images, and under PGD-20."""
    right = attacked = done = 0
    model = model.eval().to(memory_format=torch.channels_last)
    for images, labels in test.batches(250):
        pixels = (images.float() / 255).contiguous(memory_format=torch.channels_last)
        made = PGD(EPS, steps=20, early_stop=True)(model, pixels, labels, indices=range(done, done + len(labels)))
        with torch.no_grad():
            right += int((model(pixels).argmax(1) == labels).sum())
            attacked += int((model(made).argmax(1) == labels).sum())
        done += len(labels)
    return 100 * right / done, 100 * attacked / done


def run(recipe: dict[str, Any], sets: tuple[ImageSet, ImageSet], test: ImageSet) -> tuple[Path, dict[str, float]]:
    """Train, and judge the model that is best on validation images under attack, and the last one."""
    started = time.perf_counter()
    result = fit(Recipe(**recipe), sets=sets, progress=False)
    spent = time.perf_counter() - started
    cost = json.loads((result.folder / "run.json").read_text(encoding="utf-8"))["cost"]
    row = dict(zip(COLUMNS[:2], accuracies(result.model, test), strict=True))
    if (result.folder / "last").is_dir():
        row |= dict(zip(COLUMNS[2:4], accuracies(kedge.load(result.folder / "last"), test), strict=True))
    row |= {"passes per image": (cost["passes"] + (cost["earlier"] or 0)) / len(sets[0]), "seconds": spent}
    return result.folder, row


def table(rows: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Mean ± standard deviation over the seeds of each cell."""
    lines = ["| % | " + " | ".join(COLUMNS) + " | seeds |", "| --- |" + " ---: |" * (len(COLUMNS) + 1)]
    for name, runs in rows.items():
        cells = []
        for column in COLUMNS:
            values = [row[column] for row in runs.values() if column in row]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {len(runs)} |")
    return lines


def write(record: dict[str, Any], settings: dict[str, Any], out: Path) -> None:
    """Write the file, whole or not at all."""
    record |= {"command": command("robust_cifar10"), "created": now(), "machine": machine(), "settings": settings}
    order = sorted(record["rows"], key=lambda name: not name.startswith("natural"))
    record["rows"] = {name: record["rows"][name] for name in order}
    record["table"] = table(record["rows"])
    write_text(out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """Run what is missing, print the table, keep the file up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--long", type=int, default=1, help="seeds of the 80 epochs from scratch")
    parser.add_argument("--lr", type=float, default=0.05, help="the highest rate of every cell, batches of 64")
    parser.add_argument("--limit", type=int, default=1000, help="test images")
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="of training; judged in float32")
    parser.add_argument("--out", type=Path, default=RESULTS / "robust_cifar10.json")
    args = parser.parse_args()
    settings = {key: getattr(args, key) for key in ("images", "width", "lr", "limit", "precision")}
    settings |= {"eps": "8/255", "training attack": "PGD-3, step 4/255", "batch": 64, "validation": "500 images"}
    record: dict[str, Any] = {"rows": {}}
    if args.out.is_file():
        record = json.loads(args.out.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            raise SystemExit(f"{args.out} holds results with other settings: {record['settings']}")
    whole = kedge.data.load("cifar10", "train")
    test = kedge.data.load("cifar10", "test").subset(range(args.limit))
    sets = whole.subset(range(args.images)), whole.subset(range(args.images, args.images + 500))
    common = {
        "data": "cifar10", "model": "kedge_resnet_small", "arguments": {"width": args.width}, "anchored": False,
        "batch_size": 64, "lr": args.lr, "epochs": 10, "precision": args.precision, "val_pgd_images": 200,
        "device": "cpu",
    }  # fmt: skip
    attacked = {"objective": [{"Adversarial": {"attack": ATTACK}}, "CrossEntropy"]}
    with tempfile.TemporaryDirectory() as folder:
        natural: dict[int, Path] = {}
        for seed, name, changes in cells(args.seeds, args.long):
            rows = record["rows"].setdefault(name, {})
            if str(seed) in rows:
                continue
            own = {"seed": seed, "runs": folder}
            if name.startswith("fine-tuned") and seed not in natural:
                plain = {"lr": 0.1, "epochs": 30, "schedule": "cosine", "name": f"natural-{seed}"}
                natural[seed], row = run({**common, **own, **plain}, sets, test)
                record["rows"].setdefault("natural, 30 epochs", {})[str(seed)] = row
            start = {"init_from": str(natural[seed]), "model": "auto", "arguments": {}} if "tuned" in name else {}
            title = {"name": f"{name}-{seed}".replace(",", "").replace(" ", "-")}
            rows[str(seed)] = run({**common, **attacked, **own, **changes, **start, **title}, sets, test)[1]
            print(f"{name}, seed {seed}: {rows[str(seed)]}", file=sys.stderr, flush=True)
            write(record, settings, args.out)
    write(record, settings, args.out)
    print("\n".join(record["table"]))


if __name__ == "__main__":
    main()
