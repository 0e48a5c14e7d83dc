"""kedge beside what people use instead: same photos, same published weights, same image size, same threads.

    KEDGE_DATA=FOLDER python -m benchmarks.photos --weights tf_efficientnet_lite0.safetensors --out work

Each row is one training in a process of its own, with the CPU seconds and the wall seconds of that process from its
start to its end, imports included; the CPU seconds are what can be compared on a machine that does other work beside.
All methods get the same photos to train on: what kedge holds out of them for validation the others may train on.
Methods that are trained for a time get as many epochs as take at least the CPU seconds of kedge on the same photos
with the same seed; --epochs-as gives them those of a seed that has run, for a machine of another speed than the one
where kedge ran. Each tool is tested with its own view of a photo; corruptions come after the view and are the same.

Finished rows are in OUT/rows.jsonl, and a call with the same OUT does what is missing. The result is written by
--result, such as benchmarks/results/photos.json, from all rows there, also where nothing is left to do.
"""

import argparse
import fcntl
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.photos.measuring import CORRUPTIONS, SEVERITIES, measures, with_corruptions
from benchmarks.photos.sets import SETS, PhotoSet, folder_of
from benchmarks.photos.table import OURS, summary, tables
from benchmarks.photos.worker import METHODS
from benchmarks.side_by_side import lines
from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.files import write_text

ROOT = Path(__file__).resolve().parents[2]
NETWORK = "tf_efficientnet_lite0"
TIMED = [
    name for name in METHODS if name.startswith(("fastai-", "loop-")) and name not in ("fastai-4", "loop-tutorial")
]


def arguments(words: Sequence[str] | None) -> argparse.Namespace:
    """The command line, its paths made absolute: children run elsewhere."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.photos", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="folder of photos, finished rows and work in progress")
    add("--network", default=NETWORK, help=f"a network of timm; default {NETWORK}")
    add("--weights", type=Path, help="its published weights, safetensors in timm's names; left out: random weights")
    add("--sets", nargs="+", choices=SETS, default=[name for name in SETS if name != "trashnet-all"], metavar="SET",
        help=f"default all but trashnet-all: {', '.join(SETS)}")  # fmt: skip
    add("--methods", nargs="+", choices=METHODS, default=[m for m in METHODS if m != "loop-tutorial"], metavar="METHOD",
        help=f"default all but loop-tutorial: {', '.join(METHODS)}")  # fmt: skip
    add("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    add("--size", type=int, default=128, help="pixels of a side; default 128")
    add("--threads", type=int, default=1, help="of torch; default 1")
    add("--test", type=int, help="test on the first so many photos of each class: does it run, not how well")
    add("--fastai-python", default=sys.executable, help="a Python with fastai and timm; default this one")
    add("--epochs-as", type=int, metavar="SEED",
        help="train the timed methods for the epochs of their rows of this seed, not by seconds")  # fmt: skip
    add("--leave", action="store_true", help="leave trained models in OUT/models")
    add("--result", type=Path, help="file for the tables, such as benchmarks/results/photos.json")
    args = parser.parse_args(words)
    args.out = args.out.resolve()
    if args.weights is not None:
        args.weights = args.weights.resolve()
        if not args.weights.is_file():
            parser.error(f"--weights {args.weights} is no file")
    if args.threads < 1:
        parser.error(f"--threads must be 1 or more, got {args.threads}")
    return args


def plan(args: argparse.Namespace) -> Iterator[tuple[int, str, str]]:
    """(seed, set, method): all of a seed before the next; kedge first, the others in an order that turns with it."""
    others = [method for method in args.methods if method != OURS]
    for turn, seed in enumerate(args.seeds):
        for key in args.sets:
            start = turn % max(1, len(others))
            for method in [OURS] * (OURS in args.methods) + others[start:] + others[:start]:
                yield seed, key, method


def read_rows(out: Path) -> list[dict[str, Any]]:
    """The finished rows."""
    path = out / "rows.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def add_row(out: Path, row: dict[str, Any]) -> None:
    """Add a finished row, the file written whole; several processes may share a folder."""
    with (out / "rows.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        rows = [*read_rows(out), row]
        write_text(out / "rows.jsonl", "".join(json.dumps(each, ensure_ascii=False) + "\n" for each in rows))


def run(args: argparse.Namespace, step: str, method: str, **options: Any) -> tuple[float, float]:
    """Wall and CPU seconds of one step in a process of its own; RuntimeError with the end of what it printed."""
    python = args.fastai_python if METHODS[method][0] == "by_fastai" else sys.executable
    flags = {"network": args.network, "weights": args.weights, "size": args.size, "threads": args.threads, **options}
    words = [str(word) for key, value in flags.items() if value is not None for word in (f"--{key}", value)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore", "NO_COLOR": "1"}
    environment.update({f"{name}_NUM_THREADS": str(args.threads) for name in ("OMP", "MKL", "OPENBLAS")})
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [python, "-m", "benchmarks.photos.worker", step, "--method", method, *words],
        cwd=ROOT, env=environment, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise RuntimeError(f"{step} of {method} ended with {done.returncode}:\n{done.stdout[-3000:]}")
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def length(args: argparse.Namespace, seed: int, key: str, method: str) -> dict[str, float]:
    """How long a timed method trains: kedge's CPU seconds on the same photos, or the epochs of --epochs-as.

    RuntimeError if the row that says so is missing.
    """
    rows = {(row["set"], row["method"], row["seed"]): row for row in read_rows(args.out)}
    if args.epochs_as is None:
        if (key, OURS, seed) not in rows:
            raise RuntimeError(
                f"{key}, seed {seed}: kedge must run first, its seconds decide epochs; add it to --methods"
            )
        return {"budget": rows[key, OURS, seed]["cpu seconds"]}
    if (key, method, args.epochs_as) not in rows:
        raise RuntimeError(f"{key}: {method} has no row of seed {args.epochs_as}, whose epochs --epochs-as asks for")
    return {"epochs": rows[key, method, args.epochs_as]["epochs"]}


def part(args: argparse.Namespace, key: str) -> PhotoSet:
    """The set of a name, with fewer test photos if --test says so."""
    return SETS[key] if args.test is None else replace(SETS[key], test=args.test)


def one(args: argparse.Namespace, seed: int, key: str, method: str) -> dict[str, Any]:
    """Train and measure one row."""
    photos = folder_of(part(args, key), seed, args.out / "photos")
    limit = length(args, seed, key, method) if method in TIMED else {}
    with tempfile.TemporaryDirectory(dir=args.out, prefix=".work-") as folder:
        work = Path(folder)
        wall, cpu = run(args, "train", method, photos=photos, seed=seed, out=work / "model", **limit)
        run(args, "view", method, photos=photos, model=work / "model", out=work / "view.safetensors")
        shown = with_corruptions(work / "view.safetensors", args.out / "views")
        run(args, "logits", method, model=work / "model", images=shown, out=work / "logits.safetensors")
        labels = load_file(work / "view.safetensors")["labels"]
        row = {
            "set": key,
            "method": method,
            "seed": seed,
            "seconds": wall,
            "cpu seconds": cpu,
            **measures(load_file(work / "logits.safetensors"), labels),
            **json.loads((work / "model" / "record.json").read_text()),
            "train photos": sum(path.is_file() for path in (photos / "train").rglob("*")),
            "test photos": len(labels),
            **common(args),
            "created": now(),
            "load": os.getloadavg()[0],
        }
        if args.leave:
            shutil.move(work / "model", args.out / "models" / f"{key}-{method}-{seed}")
    return row


def common(args: argparse.Namespace) -> dict[str, Any]:
    """What must be the same in all rows of a table."""
    weights = None if args.weights is None else hashlib.sha256(args.weights.read_bytes()).hexdigest()[:16]
    return {"network": args.network, "weights": weights, "size": args.size, "threads": args.threads, "test": args.test}


def result(args: argparse.Namespace, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What is written: settings, machine, versions, the tables and every row."""
    sets = {key: photos.words for key, photos in SETS.items()}
    digest = summary(rows, sets)
    weights = [] if args.weights is None else ["--weights", args.weights.name]
    test = [] if args.test is None else [f"--test {args.test}"]
    own = machine()
    return {
        "name": "photos",
        "command": " ".join(["python -m benchmarks.photos", *weights, f"--threads {args.threads}", *test]),
        "created": now(),
        "machine": {**own, "threads": args.threads},
        "load": max(row["load"] for row in rows),
        "device": "cpu",
        "settings": {**common(args), "corruptions": list(CORRUPTIONS), "severities": list(SEVERITIES)},
        "versions": {row["method"]: row["versions"] for row in rows},
        "rows": [],
        "tables": tables(digest, sets),
        "summary": digest,
        "trainings": list(rows),
    }


def main(words: Sequence[str] | None = None) -> int:
    """Do the rows that are missing, then print the tables; the exit status is how many rows failed."""
    args = arguments(words)
    args.out.mkdir(parents=True, exist_ok=True)
    settings, failed = common(args), []
    for row in read_rows(args.out):
        if {key: row[key] for key in settings} != settings:
            theirs = {key: row[key] for key in settings}
            print(
                f"{args.out / 'rows.jsonl'} holds rows of {theirs}, not of {settings}: name another --out",
                file=sys.stderr,
            )
            return 2
    for seed, key, method in plan(args):
        if any((r["set"], r["method"], r["seed"]) == (key, method, seed) for r in read_rows(args.out)):
            continue
        try:
            row = one(args, seed, key, method)
        except RuntimeError as error:
            failed.append(f"{key} {method} {seed}")
            print(f"{failed[-1]}: {error}", file=sys.stderr, flush=True)
            continue
        add_row(args.out, row)
        print(
            f"{key} {method} seed {seed}: {row['accuracy']:.1f} clean, {row['corrupted accuracy']:.1f} corrupted, "
            f"smooth ECE {row['smooth ECE']:.1f}, NLL {row['NLL']:.2f}, {row['cpu seconds']:.0f} CPU s, "
            f"{row['seconds']:.0f} s ({row['recipe']})",
            flush=True,
        )
    rows = read_rows(args.out)
    if rows:
        record = result(args, rows)
        print("\n".join(lines(record)))
        if args.result is not None:
            write_text(args.result, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    for name in failed:
        print(f"failed: {name}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
