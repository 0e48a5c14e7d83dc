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
from typing import Any  # noqa: E402

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
    try:
        record = _campaign(args, root)
    finally:
        shutil.rmtree(root, ignore_errors=True)
    record["seconds"] = round(time.monotonic() - began)
    if args.add and args.out is not None and args.out.exists():
        record = _added(json.loads(args.out.read_text()), record)
    print(_table(record), flush=True)
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        args.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return int(args.strict and any(each["tried"] > each["held"] for each in record["classes"].values()))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a little of each class, under a minute")
    parser.add_argument("--seed", type=int, default=0, help="which tries are drawn")
    parser.add_argument("--only", nargs="+", metavar="PATTERN", default=["*"], help="names of tries, * for any text")
    parser.add_argument("--minutes", type=float, default=None, help="of fuzzing; default 2, with --quick a tenth")
    parser.add_argument("--every", action="store_true", help="every file event and value, not some drawn; hours")
    parser.add_argument("--add", action="store_true", help="keep in --out what other classes came to in other calls")
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


def _campaign(args: argparse.Namespace, root: Path) -> dict[str, Any]:
    from benchmarks.faults.tries import Asked, Base
    from kedge.evaluation.provenance import machine, now

    base = Base(root)
    counts: dict[str, dict[str, int]] = {}
    failures: list[dict[str, str]] = []
    most = 0.0
    started = {
        "name": "faults",
        "command": shlex.join(["python", "-m", "benchmarks.faults", *sys.argv[1:]]),
        "created": now(),
    }
    for class_, wanted in ((c, w) for c in CLASSES for w in args.only):
        if not fnmatch.fnmatch(class_, wanted.split("/")[0]):
            continue
        module = import_module(f"benchmarks.faults.{class_}")
        asked = Asked(args.seed, args.quick, args.every, wanted)
        for each in module.tries(base, asked):
            if not any(fnmatch.fnmatch(each.name, pattern) for pattern in (wanted, f"{wanted}/*")):
                continue
            place = base.place(each.start)
            began = time.monotonic()
            wrong = each.run(place)
            _count(counts, each.name, 1, int(wrong is None))
            most = max(most, place.most)
            if wrong is not None:
                failures.append(
                    {"try": each.name, "wrong": wrong, "again": _again(args, each.name), "commands": place.commands}
                )
            if args.show or wrong is not None:
                taken = f"{each.name} {time.monotonic() - began:.1f} s"
                print(f"held {taken}" if wrong is None else f"FELL {taken}: {wrong}", flush=True)
            place.gone()
    if any(fnmatch.fnmatch("fuzz", wanted.split("/")[0]) for wanted in args.only):
        from benchmarks.faults.fuzz import fuzzed

        for name, tried, fell, wrong in fuzzed(base, args.seed, args.minutes, args.quick):
            _count(counts, f"fuzz/{name}", tried, tried - fell)
            for where, file in wrong.items():
                failures.append({"try": f"fuzz/{name}", "wrong": where, "again": _again(args, "fuzz"), "file": file})
                print(f"FELL fuzz/{name}: {where}\n     {file[:300]}", flush=True)
    classes = {c: {k: sum(v[k] for n, v in counts.items() if n.split("/")[0] == c) for k in ("tried", "held")}
               for c in dict.fromkeys(n.split("/")[0] for n in counts)}  # fmt: skip
    return {**started, "machine": machine(), "seed": args.seed, "quick": args.quick, "most_memory_mb": round(most),
            "classes": classes, "parts": counts, "failures": failures}  # fmt: skip


def _added(before: dict[str, Any], record: dict[str, Any]) -> dict[str, Any]:
    """The record with the classes of an earlier one that it does not have."""
    kept = set(before["classes"]) - set(record["classes"])
    for key in ("classes", "parts"):
        record[key] = {**{n: v for n, v in before[key].items() if n.split("/")[0] in kept}, **record[key]}
    record["failures"] = [f for f in before["failures"] if f["try"].split("/")[0] in kept] + record["failures"]
    record["command"] = f"{before['command']}; {record['command']}"
    record["seconds"] += before["seconds"]
    record["most_memory_mb"] = max(before["most_memory_mb"], record["most_memory_mb"])
    return record


def _again(args: argparse.Namespace, name: str) -> str:
    words = [
        "python",
        "-m",
        "benchmarks.faults",
        "--only",
        name,
        "--seed",
        str(args.seed),
        *["--quick"] * args.quick,
        *["--every"] * args.every,
    ]
    return shlex.join(words)


def _count(counts: dict[str, dict[str, int]], name: str, tried: int, held: int) -> None:
    part = counts.setdefault("/".join(name.split("/")[:2]), {"tried": 0, "held": 0})
    part["tried"] += tried
    part["held"] += held


def _table(record: dict[str, Any]) -> str:
    of = record["machine"]
    lines = [
        f"`{record['command']}`, {record['created'][:10]}: {of['system']}, torch {of['torch']}, Python {of['python']}, "
        f"kedge {of['kedge']}, {record['seconds']} s, {record['most_memory_mb']} MB more than at the start at most",
        "",
        "| class | tried | held |",
        "| --- | ---: | ---: |",
    ]
    lines += [f"| {name} | {each['tried']} | {each['held']} |" for name, each in record["classes"].items()]
    for failure in record["failures"]:
        lines += [f"\n{failure['try']}: {failure['wrong']}", f"    {failure['again']}"]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
