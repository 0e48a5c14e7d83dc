"""A campaign of faults against the `kedge` command: counts tried and held, prints what did not hold.

    python -m benchmarks.faults                       everything, written to benchmarks/results/faults.json
    python -m benchmarks.faults --quick               a little of each class, under a minute; nothing is written
    python -m benchmarks.faults --only 'kills/train/*'
    python -m benchmarks.faults --only fuzz --minutes 10

Held means, per class: kills, the same bits as an uninterrupted run after going on; disk, words, nothing half written
left, and the same; crafted, an error in words or a right answer, nothing executed, no hang, no memory eaten, nothing
written outside; lines, no traceback; together, one wins and the other says so, or both are right; fuzz, no crash
that is no error in words. Hangs, crashes, tracebacks, executed code, eaten memory and files outside never hold.
"""

from benchmarks.faults.mounts import apart

apart()  # before anything has threads

import argparse  # noqa: E402
import fnmatch  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections.abc import Sequence  # noqa: E402
from importlib import import_module  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import TYPE_CHECKING  # noqa: E402

if TYPE_CHECKING:
    from benchmarks.faults.report import Record

CLASSES = ("kills", "disk", "crafted", "lines", "together")
# Imported once, before the forks; onnxruntime is not, as what it does when it is imported is watched.
SLOW = (
    "torch", "torchvision", "timm", "lightning.pytorch", "torchmetrics", "datasets", "sklearn.datasets", "scipy.stats",
    "torch.onnx", "torch.export", "pyarrow.parquet", "jsonargparse", "rich.table", "jinja2", "PIL.Image", "onnx",
    "onnxscript", "kedge.cli", "kedge.training", "kedge.evaluation", "kedge.adaptation", "kedge.reporting",
    "kedge.deploy", "kedge.experiments",
)  # fmt: skip
RESULTS = Path(__file__).parents[1] / "results"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the campaign; the exit status says whether it ran, not whether all held."""
    args = _options(arguments)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # names that are no UTF-8
    began = time.monotonic()
    root = Path(tempfile.mkdtemp(prefix="faults-", dir=args.folder))
    # Of the command's surroundings, not of ours; read when the libraries are imported.
    os.environ.update(
        {"HF_HUB_OFFLINE": "1", "HF_HOME": str(root / "hub"), "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
    )
    os.environ.pop("KEDGE_DATA", None)
    for name in SLOW:
        import_module(name)
    import torch

    torch.set_num_threads(1)
    from benchmarks.faults.report import Record, text
    from kedge.files import write_text

    told = [
        word for k, word in enumerate(sys.argv[1:]) if "--out" not in (word, sys.argv[k])
    ]  # a place of this machine
    record = Record(shlex.join(["python", "-m", "benchmarks.faults", *told]), args.seed, args.quick)
    try:
        _campaign(args, root, record)
    except KeyboardInterrupt:
        print("interrupted: what was tried so far follows")
    finally:
        shutil.rmtree(root, ignore_errors=True)
    made = record.end(time.monotonic() - began, args.out if args.add else None)
    print(text(made), flush=True)
    if args.out is not None:
        write_text(args.out, json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    return int(args.strict and bool(record.failures))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a little of each class, under a minute")
    parser.add_argument("--seed", type=int, default=0, help="which tries are drawn")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"], help="names of tries, * for any text")
    parser.add_argument("--minutes", type=float, default=None, help="of fuzzing; default 2, with --quick a tenth")
    parser.add_argument("--every", action="store_true", help="every file event and value, not some drawn; hours")
    parser.add_argument("--add", action="store_true", help="keep in --out what other parts came to in other calls")
    parser.add_argument("--strict", action="store_true", help="exit status 1 if one did not hold")
    parser.add_argument("--show", action="store_true", help="each try as it ends")
    parser.add_argument("--folder", default=None, help="where to work; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=None, help="default benchmarks/results/faults.json if all is tried")
    parser.add_argument("--device", default="cpu", help="cpu is all there is")
    args = parser.parse_args(arguments)
    if args.out is None and not args.quick and args.only == ["*"]:
        args.out = RESULTS / "faults.json"
    if args.minutes is None:
        args.minutes = 0.2 if args.quick else 2.0
    return args


def _campaign(args: argparse.Namespace, root: Path, record: "Record") -> None:
    from benchmarks.faults.fuzz import fuzzed
    from benchmarks.faults.tries import Asked, Base

    base = Base(root)
    for class_, wanted in ((c, w) for c in CLASSES for w in args.only):
        if not fnmatch.fnmatch(class_, wanted.split("/")[0]):
            continue
        module = import_module(f"benchmarks.faults.{class_}")
        for each in module.tries(base, Asked(args.seed, args.quick, args.every, wanted)):
            if not any(fnmatch.fnmatch(each.name, pattern) for pattern in (wanted, f"{wanted}/*")):
                continue
            place, began = base.place(each.start), time.monotonic()
            wrong = each.run(place)
            record.count(each.name, 1, int(wrong is None))
            record.memory = max(record.memory, place.most)
            if wrong is not None:
                record.fell(each.name, wrong, _again(args, each.name), commands=place.commands)
            if args.show or wrong is not None:
                taken = f"{each.name} {time.monotonic() - began:.1f} s"
                print(f"held {taken}" if wrong is None else f"FELL {taken}: {wrong}", flush=True)
            place.gone()
    for asked in (Asked(args.seed, args.quick, args.every, wanted) for wanted in args.only):
        for name, tried, fell, wrongs in fuzzed(base, asked, args.minutes):
            record.count(f"fuzz/{name}", tried, tried - fell)
            for where, change in wrongs.items():
                record.fell(f"fuzz/{name}", where, _again(args, f"fuzz/{name}"), change=change)
                print(f"FELL fuzz/{name}: {where}\n     {change[:300]}", flush=True)


def _again(args: argparse.Namespace, name: str) -> str:
    return shlex.join(["python", "-m", "benchmarks.faults", "--only", name, "--seed", str(args.seed)])


if __name__ == "__main__":
    sys.exit(main())
