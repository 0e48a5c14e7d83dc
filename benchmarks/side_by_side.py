"""Time things side by side: in turn, in one run, in an order drawn anew each round; a ratio is of the same round.

What every program here shares: its command line (`--device`, `--quick`, `--rounds`, `--out`), the clock, the shape of
its result and where that is written. A result is a JSON file with `rows` (ratios with their targets) and `tables`
(anything else), from which the page "How fast" is made.
"""

import argparse
import json
import math
import os
import random
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.memory import keep_freed_memory

RESULTS = Path(__file__).parent / "results"
Times = dict[str, list[float]]


def parser(name: str, doc: str | None, rounds: int = 15, quick: int = 3) -> argparse.ArgumentParser:
    """The command line that all programs share; `options` reads it."""
    made = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--device", default="cpu", help="cpu, cuda, mps")
    made.add_argument(
        "--threads", type=int, default=None, help="threads of torch on the CPU; default: one for each core"
    )
    made.add_argument("--quick", action="store_true", help="little work: does it run, not how fast")
    made.add_argument("--rounds", type=int, default=None, help=f"default {rounds}, or {quick} with --quick")
    made.add_argument(
        "--out", type=Path, default=None, help=f"default benchmarks/results/{name}.json; with --quick none"
    )
    made.set_defaults(name=name, full=rounds, few=quick)
    return made


def options(made: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The parsed command line, with rounds and the place of the result filled in; sets torch's threads.

    Freed memory is kept, as the kedge command keeps it (`benchmarks.allocation` measures what that is worth): times
    then tell of arithmetic and not of the kernel.
    """
    if made.get_default("name") != "allocation":
        keep_freed_memory()
    args = made.parse_args(arguments)
    if args.rounds is not None and args.rounds < 1:
        made.error(f"--rounds must be 1 or more, got {args.rounds}")
    if args.threads is not None and args.threads < 1:
        made.error(f"--threads must be 1 or more, got {args.threads}")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there.get(args.device):
        made.error(
            f"--device {args.device} is not here; there is {', '.join(name for name, is_ in there.items() if is_)}"
        )
    args.rounds = args.rounds or (args.few if args.quick else args.full)
    if args.out is None and not args.quick:
        suffix = "" if args.device == "cpu" else f"_{args.device}"
        args.out = RESULTS / f"{args.name}{suffix}.json"
    args.device = torch.device(args.device)
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    return args


def seconds(call: Callable[[], Any], device: torch.device | None = None) -> float:
    """How long `call` takes on the clock, the device's work included."""
    wait = torch.cuda.synchronize if device is not None and device.type == "cuda" else lambda: None
    wait()
    began = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - began


def in_turn(
    calls: Mapping[str, Callable[[], Any]], rounds: int, device: torch.device | None = None, warm: int = 2
) -> Times:
    """Seconds of each call in each round; the calls of a round follow one another in an order drawn anew."""
    for call in calls.values():
        for _ in range(warm):
            call()
    times: Times = {name: [] for name in calls}
    order, draw = list(calls), random.Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for name in order:
            times[name].append(seconds(calls[name], device))
    return times


def peak_bytes(call: Callable[[], Any], device: torch.device | None = None) -> int:
    """The most that tensors made inside `call` hold at one time, in bytes; counted, so the same in every run."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    assert seen.profiler is not None
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, quartiles and how many there are."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {"median": middle, "low": low, "high": high, "rounds": len(values)}


def ratio(times: Times, what: str, against: str, times_against: float = 1.0) -> dict[str, float]:
    """The spread of what `what` takes, as a share of `times_against` times what `against` takes in the same round."""
    return spread([a / (times_against * b) for a, b in zip(times[what], times[against], strict=True)])


def row(
    what: str,
    against: str,
    found: Mapping[str, float],
    target: float | None = None,
    least: bool = False,
    note: str = "",
    counted: bool = False,
) -> dict[str, Any]:
    """A line of the result: a ratio, what it must not exceed (or, with `least`, must reach), and whether it does.

    Fewer than five rounds tell nothing of a time; what is `counted` is exact.
    """
    told = target is not None and (counted or found["rounds"] >= 5)
    met = (found["median"] >= target if least else found["median"] <= target) if told else None
    sign = "≥" if least else "≤"
    return {
        "what": what,
        "against": against,
        "target": None if target is None else f"{sign} {target:g}",
        "met": met,
        "ratio": dict(found),
        "note": note,
    }


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[Any]], note: str = "") -> dict[str, Any]:
    """Anything that is not a ratio: a title, the names of the columns, rows of text and numbers."""
    return {"title": title, "head": list(head), "rows": [list(r) for r in rows], "note": note}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of log cost against log size by least squares: 1 is linear growth."""
    x, y = [math.log(s) for s in sizes], [math.log(c) for c in costs]
    return statistics.linear_regression(x, y).slope


def finish(
    args: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> int:
    """Print the result as tables and write it where `--out` says; the exit status."""
    print("\n".join(lines(write(args, rows, tables, **more))))
    return 0


def command(name: str) -> str:
    """The command line of a program of this folder, without the places of this machine."""
    words = [Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:]]
    return " ".join([f"python -m benchmarks.{name}", *words])


def write(
    args: argparse.Namespace,
    rows: Sequence[Mapping[str, Any]] = (),
    tables: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> dict[str, Any]:
    """The result with where it comes from, also written where `--out` says: what is there so far, if more follows."""
    record = {
        "name": args.name,
        "command": command(args.name),
        "created": now(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "device": str(args.device),
        "rounds": args.rounds,
        **more,
        "rows": list(rows),
        "tables": list(tables),
    }
    if args.out is not None:
        args.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def lines(record: Mapping[str, Any]) -> list[str]:
    """A result as Markdown: what was measured on what, the ratios, the other tables."""
    of = record["machine"]
    threads = (
        f"{of['threads']} thread{'s' * (of['threads'] != 1)} on {of['cpus']} cores"
        if record["device"] == "cpu"
        else record["device"]
    )
    said = [
        f"`{record['command']}`, {record['created'][:10]}: {of['system']}, {threads}"
        + "".join(f", {gpu}" for gpu in of["accelerators"])
        + f", torch {of['torch']}, Python {of['python']}, kedge {of['kedge']}, load {record['load']:.1f}."
    ]
    if record["rows"]:
        said += ["", "| what | against | target | ratio (quartiles) | met |", "| --- | --- | --- | --- | --- |"]
        for each in record["rows"]:
            found, met = each["ratio"], {None: "", True: "yes", False: "no"}[each["met"]]
            shown = f"{found['median']:.3g} ({found['low']:.3g} to {found['high']:.3g})"
            note = f"; {each['note']}" if each["note"] else ""
            said.append(f"| {each['what']}{note} | {each['against']} | {each['target'] or ''} | {shown} | {met} |")
    for each in record["tables"]:
        said += [
            "",
            f"**{each['title']}**",
            "",
            "| " + " | ".join(each["head"]) + " |",
            "| --- " * len(each["head"]) + "|",
        ]
        said += ["| " + " | ".join(_shown(cell) for cell in cells) + " |" for cells in each["rows"]]
        said += ["", each["note"]] if each["note"] else []
    return said


def _shown(cell: Any) -> str:
    if not isinstance(cell, float):
        return "" if cell is None else str(cell)
    return f"{cell:.0f}" if abs(cell) >= 1000 else f"{cell:.3g}"
