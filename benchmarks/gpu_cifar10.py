"""Standard, anchored and masked ResNet-18 on all of CIFAR-10, in the minutes that one large GPU is lent for.

    KEDGE_DATA=path/to/packs python -m benchmarks.gpu_cifar10 --device cuda --minutes 12 --runs runs/gpu

First a step is timed (anchored and masked beside standard, bf16 beside 32 bits), then two epochs are trained and
evaluated. From what those took the epochs and seeds are planned: as many seeds as leave each run --least epochs, then
as many epochs as fit. All variants of a seed come before the next seed. A run is measured as soon as it is trained:
clean, 19 corruptions at 5 severities on the first --images test images of a fixed shuffle, near and far
out-of-distribution sets. The result is written after each, so that whatever ends the program leaves what there was.

When the minutes are over training stops, and the last copy of the model that was kept at an epoch's end (every tenth of
the run) is measured; it is listed as unfinished and left out of the comparison. The same command with the same --runs
goes on: epochs and batch stay as planned, runs that are over are not done again. Time that is left in the end goes to
the step of a compiled network.

METHOD, for an H200 with 16 cores whose commands end after 10 minutes. Carry: the checkout and the packs cifar10,
cifar100, mnist, fashion_mnist, textures10_64, scenes2_64 and traffic_signs43_64 (the test part where there is one, of
cifar10 also train; 145 MiB). With at most 64 MiB in a call: three calls, each with one of the three train files of
cifar10 and about a third of the others, `mkdir -p /tmp/packs && cp -r PACKS/. /tmp/packs/`; the last call goes on with

    KEDGE_DATA=/tmp/packs HF_HUB_OFFLINE=1 PYTHONUNBUFFERED=1 PYTHONPATH=src python3 -m benchmarks.gpu_cifar10 \\
        --device cuda --minutes 9 --runs /tmp/runs --out $OUT/gpu_cifar10_cuda.json

Neither datasets nor jsonargparse is needed there. What comes back: the JSON (speed, plan, every run, comparison), which
belongs into benchmarks/results as it is. Time plan of the 9 minutes: 1 for imports, decoding and speed, 1/2 for the two
epochs and their evaluation, 7 for runs and evaluations, what is left for compiling. A second call while the machine is
held, with --minutes 3, finishes what was broken off.

--tiny runs all of it on handwritten digits with a very small network, on two CPU cores in a minute: does it run.
"""

import argparse
import contextlib
import json
import math
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import torch

import kedge
from benchmarks.gpu_steps import fitting_batch, forget, timed_steps
from benchmarks.gpu_tables import Runs, tables
from benchmarks.lent_time import Clock
from benchmarks.pipeline import has_pack
from benchmarks.side_by_side import finish, options, parser, write
from kedge import data, evaluation
from kedge.data import ImageSet
from kedge.experiments.measures import RISK, measured
from kedge.files import write_text
from kedge.layout import channels_last
from kedge.objectives import Anchored, CrossEntropy
from kedge.scores import MSP, Energy, Masked
from kedge.training import Recipe, TrainingStopped, fit
from kedge.training.folder import RunFolder

Row = dict[str, Any]
NEAR, FAR = ("cifar100",), ("mnist", "fashion_mnist", "textures10_64", "scenes2_64", "traffic_signs43_64")
BATCH, RATE = 512, 0.4  # of SGD; the rate is linear in the batch
SEEDS, MOST = 5, 200  # planned at most
SPARE = 10.0  # seconds at the end of the minutes
OVER = "the time was over"


def masking(args: argparse.Namespace) -> Row:
    """How references are masked in the third variant."""
    return {"alpha": args.alpha, "mask_target": args.mask_target, "mask_per": args.mask_per}


def variants(args: argparse.Namespace) -> dict[str, Row]:
    """Name to the keys of the recipe in which a variant differs."""
    return {
        "standard": {"anchored": False, "objective": ["CrossEntropy"]},
        "anchored": {"objective": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]},
        "masked": {"objective": [{"Anchored": masking(args)}, "CrossEntropy"]},
    }


def recipe_of(args: argparse.Namespace, variant: str, seed: int, epochs: int, batch: int) -> Recipe:
    """One training. Every seed holds out the same images."""
    small: Row = {"model": "kedge_resnet_small", "arguments": {"width": 4}} if args.quick else {}
    base: Row = {"model": "kedge_resnet18", "optimizer": "sgd", "weight_decay": 5e-4, "warmup": 0.1, **small}
    rate = RATE * batch / BATCH
    run: Row = {"data": "digits" if args.quick else "cifar10", "name": f"{variant}-{seed}", "runs": str(args.runs)}
    return Recipe(
        **run, **base, **variants(args)[variant], seed=seed, split_seed=0, val_fraction=0.02, epochs=epochs,
        batch_size=batch, lr=rate, snapshots=max(1, epochs // 10), device=args.device.type, precision=args.precision,
    )  # fmt: skip


@dataclass
class Sets:
    """The images: `near` and `far` are out-of-distribution; `missing` names those of them that are not here."""

    train: ImageSet
    val: ImageSet
    test: ImageSet
    near: dict[str, ImageSet]
    far: dict[str, ImageSet]
    missing: list[str]


def images(args: argparse.Namespace) -> Sets:
    """CIFAR-10 and what is foreign to it; for a try eight digits, the other two, and noise."""
    if args.quick:
        known, foreign = [str(n) for n in range(8)], ["8", "9"]
        train, val, test = (data.load("digits", split) for split in ("train", "val", "test"))
        noise = data.TensorSet(torch.randint(256, (64, 1, 8, 8), dtype=torch.uint8), torch.zeros(64).long(), ["noise"])
        own = [images.only_classes(known) for images in (train, val, test)]
        return Sets(*own, {"8 and 9": test.only_classes(foreign)}, {"noise": noise}, [])
    train, val = data.split_validation(data.load("cifar10", "train"), 0.02, 0)
    outside = {name: data.load(name, "test", 32, 3) for name in (*NEAR, *FAR) if has_pack(name)}
    near, far = ({name: outside[name] for name in names if name in outside} for names in (NEAR, FAR))
    missing = [name for name in (*NEAR, *FAR) if name not in outside]
    return Sets(train, val, data.load("cifar10", "test"), near, far, missing)


def train(recipe: Recipe, sets: Sets, clock: Clock, reserve: float) -> str:
    """Train, or go on with what was broken off; in words what kept it from its end, or nothing."""
    folder = Path(recipe.runs) / str(recipe.name)
    if (folder / "model" / "config.json").is_file():
        return ""
    begun = (folder / "recipe.yaml").is_file()
    try:
        with clock.until(reserve):
            how: Row = {"sets": (sets.train, sets.val), "progress": False, "report": False}
            fit(None if begun else recipe, resume=folder if begun else None, **how)
    except KeyboardInterrupt:
        if not clock.rang:  # somebody's own
            raise
        return OVER
    except TrainingStopped as error:
        return str(error)
    finally:
        forget()
    return ""


def evaluated(args: argparse.Namespace, recipe: Recipe, sets: Sets) -> Row | None:
    """What is measured of a run: of its model, or of the last copy kept while it trained; None if there is neither."""
    folder = RunFolder(Path(recipe.runs) / str(recipe.name))
    rows = folder.rows() if folder.path.is_dir() else []
    copies = folder.snapshots()
    whole = (folder.model / "config.json").is_file()
    if not whole and not copies:
        return None
    epochs = len(rows) if whole else max(copies)
    kept = Path(recipe.runs) / "measured" / f"{recipe.name}.json"
    asked = {"images": args.images, "references": args.references, "outside": [*sets.near, *sets.far]}
    if kept.is_file():
        before: Row = json.loads(kept.read_text(encoding="utf-8"))
        if before["epochs"] == epochs and before["asked"] == asked:
            return before
    began = time.monotonic()
    model: Any = channels_last(kedge.load(folder.model if whole else copies[epochs]).to(args.device))
    anchored: Row = {"references": args.references} if hasattr(model, "references") else {}
    results = evaluation.evaluate(
        {str(recipe.name): model}, sets.test, ood={**sets.near, **sets.far}, near=list(sets.near),
        scores=[MSP(), Energy(), Masked()], batch_size=256 if args.device.type == "cpu" else 1000,
        severities=(3,) if args.quick else (1, 2, 3, 4, 5), resamples=0, examples=0, seed=0, limit=args.images,
        risk=RISK, **anchored,
    )  # fmt: skip
    entry = results["models"][str(recipe.name)]
    record = {
        "asked": asked,
        "epochs": epochs,
        "of": recipe.epochs,
        "finished": whole,
        "training_seconds": sum(each["seconds"] for each in rows),
        "evaluation_seconds": time.monotonic() - began,
        "parameters": entry["parameters"],
        "errors": entry["errors"],
        "history": [
            {k: each[k] for k in ("epoch", "train_loss", "val_accuracy", "val_nll", "seconds")} for each in rows
        ],
        **measured(entry),
    }
    kept.parent.mkdir(parents=True, exist_ok=True)
    write_text(kept, json.dumps(record, indent=1) + "\n")
    return record


def planned(args: argparse.Namespace, clock: Clock, sets: Sets) -> Row:
    """Epochs, seeds, and the seconds that they are planned from; those of an earlier call with the same runs."""
    path = args.runs / "plan.json"
    if path.is_file():
        earlier: Row = json.loads(path.read_text(encoding="utf-8"))
        if earlier["variants"] != variants(args) or args.epochs not in (None, earlier["epochs"]):
            raise SystemExit(
                f"{args.runs} holds runs of {earlier['epochs']} epochs, {earlier['variants']}: go on with these, or "
                "name another --runs"
            )
        return earlier
    batch, speed, milliseconds = fitting_batch(args, masking(args), 64 if args.quick else BATCH)
    pilot = replace(recipe_of(args, "masked", 0, 2, batch), name="pilot")
    shutil.rmtree(args.runs / "pilot", ignore_errors=True)  # of a call that ended before it had planned
    began = time.monotonic()
    if said := train(pilot, sets, clock, SPARE):
        raise SystemExit(f"the two epochs that the plan rests on did not end: {said}")
    whole = time.monotonic() - began
    rows = RunFolder(args.runs / "pilot").rows()
    epoch = rows[-1]["seconds"]
    record = evaluated(args, pilot, sets)
    assert record is not None
    judging, about = record["evaluation_seconds"], max(0.0, whole - 2 * epoch)
    kinds = len(variants(args))
    most = args.seeds or SEEDS
    each = [((0.92 * clock.left() - SPARE) / (s * kinds) - about - judging) / epoch for s in range(1, most + 1)]
    seeds = args.seeds or max((s for s in range(1, most + 1) if each[s - 1] >= args.least), default=1)
    epochs = args.epochs or max(1, min(MOST, math.floor(each[seeds - 1])))
    plan = {
        "variants": variants(args), "batch_size": batch, "epochs": epochs, "seeds": seeds, "seconds_of_an_epoch": epoch,
        "seconds_of_a_run_beside": about, "seconds_of_an_evaluation": judging, "speed": speed,
        "milliseconds": milliseconds,
    }  # fmt: skip
    write_text(path, json.dumps(plan, indent=1) + "\n")
    return plan


def arguments(given: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    made = parser("gpu_cifar10", __doc__, rounds=15, quick=2)
    made.add_argument("--tiny", action="store_true", dest="quick", help="the same as --quick")
    made.add_argument("--minutes", type=float, default=12.0, help="from now, all together; default 12")
    made.add_argument(
        "--runs", type=Path, default=None, help="folder of the runs, to go on with; default one that goes"
    )
    made.add_argument("--epochs", type=int, default=None, help="of every run; default: what fits")
    made.add_argument("--seeds", type=int, default=None, help=f"default: as many as fit, at most {SEEDS}")
    made.add_argument("--least", type=int, default=30, help="epochs of a run below which there are fewer seeds")
    made.add_argument("--images", type=int, default=2000, help="test images, and of each other set; default 2000")
    made.add_argument("--references", type=int, default=1, help="of the bank, in the evaluation; default 1")
    made.add_argument("--alpha", type=float, default=0.25, help="share that is masked; default 0.25")
    made.add_argument("--mask_target", default="label", help="label or uniform; default label")
    made.add_argument("--mask_per", default="sample", help="sample or batch; default sample")
    made.add_argument("--precision", default="auto", help="of the training: auto, 32, bf16; default auto")
    made.add_argument("--compile", action="store_true", help="time compiled steps on a CPU too")
    args = options(made, given)
    if args.minutes <= 0 or args.images < 1 or args.least < 1 or min(args.epochs or 1, args.seeds or 1) < 1:
        made.error("--minutes, --images, --least, --epochs and --seeds are above 0")
    try:
        Anchored(CrossEntropy(), **masking(args))
    except ValueError as error:
        made.error(str(error))
    if args.quick:
        args.images = min(args.images, 60)
    return args


def main(given: Sequence[str] | None = None) -> int:
    """Plan, train, measure, write."""
    args = arguments(given)
    clock = Clock(args.minutes)
    if not args.quick and not has_pack("cifar10"):
        print("gpu_cifar10 was not run: it needs the cifar10 pack, a folder of $KEDGE_DATA")
        return 0
    if args.device.type == "cuda":
        torch.backends.cudnn.benchmark = True  # shapes do not change
    with contextlib.ExitStack() as stack:
        if args.runs is None:
            args.runs = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        args.runs.mkdir(parents=True, exist_ok=True)
        return everything(args, clock)


def everything(args: argparse.Namespace, clock: Clock) -> int:
    """All of it, in a folder of runs."""
    sets = images(args)
    plan = planned(args, clock, sets)
    print(f"planned: {plan['epochs']} epochs, {plan['seeds']} seeds, {clock.left():.0f} s left", file=sys.stderr)
    runs: Runs = {variant: {} for variant in variants(args)}
    about = f"{args.images} test images, 19 corruptions made here, {args.references} of the references."
    about += f" Not at hand: {', '.join(sets.missing)}." if sets.missing else ""
    about += " Digits and a very small network: the numbers mean nothing." if args.quick else ""
    judging = plan["seconds_of_an_evaluation"]
    one = plan["seconds_of_a_run_beside"] + judging + plan["epochs"] * plan["seconds_of_an_epoch"]
    stopped: dict[str, str] = {}
    speed = list(plan["speed"])

    def so_far() -> tuple[list[Row], list[Row], Row]:
        more = {"plan": plan, "runs": runs, "stopped": stopped, "seconds_left": clock.left(), "missing": sets.missing}
        return speed, tables(plan, runs, about), more

    for seed in count():
        over = OVER in stopped.values()
        if over or seed >= (args.seeds or SEEDS) or (seed >= plan["seeds"] and clock.left() < len(runs) * one + SPARE):
            break
        for variant in runs:
            recipe = recipe_of(args, variant, seed, plan["epochs"], plan["batch_size"])
            if said := train(recipe, sets, clock, 1.3 * judging + SPARE):
                stopped[str(recipe.name)] = said
            record = evaluated(args, recipe, sets)
            if record is not None:
                runs[variant][seed] = record
            rows, shown, more = so_far()
            write(args, rows, shown, **more)
            words = f"{record['epochs']} epochs, {record['measures']}" if record else "nothing to measure"
            print(f"{recipe.name}: {words}. {said} {clock.left():.0f} s left", file=sys.stderr)
            if said == OVER:
                break
    if args.compile or (args.device.type == "cuda" and clock.left() > 90):
        try:
            with clock.until(SPARE):
                more_rows, more_times = timed_steps(args, masking(args), plan["batch_size"], compiled=True)
            speed += more_rows
            plan["milliseconds"] = [*plan["milliseconds"], *more_times]
        except KeyboardInterrupt:
            if not clock.rang:
                raise
            stopped["compiled steps"] = OVER
        except Exception as error:  # a compiler can fail in any way; the runs are what counts
            stopped["compiled steps"] = f"{type(error).__name__}: {str(error)[:200]}"
    rows, shown, more = so_far()
    return finish(args, rows, shown, **more)


if __name__ == "__main__":
    sys.exit(main())
