"""What malloc costs: time and memory with freed memory kept (`kedge.memory`), against glibc as it comes.

    python -m benchmarks.allocation

Each measurement is a process of its own, as the setting cannot be taken back; the two kinds take turns. A ratio is of
the median call of two neighbouring processes. Memory is the resident set: its peak, and what is held after more calls.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch

from benchmarks.side_by_side import finish, options, parser, row, seconds, spread, table
from kedge import networks
from kedge.memory import keep_freed_memory

# title: (network, its arguments, side in pixels, batch)
CASES: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "kedge_resnet_small, 32 px": ("kedge_resnet_small", {}, 32, 256),
    "ResNet-18, 96 px": ("resnet18", {}, 96, 64),
    "ResNet-18, 224 px": ("resnet18", {}, 224, 16),
    "ViT-Tiny, 224 px": ("vit_tiny_patch16_224", {}, 224, 16),
}
WORK = ("forward", "training step")
KEPT, RETURNED = "freed memory kept", "glibc as it comes"


def memory(peak: bool = False) -> float:
    """MB of memory that this process holds, or held at most."""
    name = "VmHWM" if peak else "VmRSS"
    with open("/proc/self/status", encoding="utf-8") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(name)) / 1024


def page_faults() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def repeated(call: Callable[[], Any], count: int) -> dict[str, Any]:
    """Median seconds and page faults of a call, and the memory held after a few, half and all of `count` calls."""
    for _ in range(2):
        call()
    faults, times, held = page_faults(), [], []
    for n in range(count):
        times.append(seconds(call))
        if n + 1 in (2, count // 2, count):
            held.append(memory())
    return {
        "seconds": statistics.median(times),
        "faults": (page_faults() - faults) / count,
        "held": held,
        "peak": memory(peak=True),
    }


def child(title: str, keep: bool, calls: int, quick: bool, threads: int | None) -> None:
    """Measure one network in this process and print what was found as JSON."""
    if keep and not keep_freed_memory():
        raise RuntimeError("malloc is not glibc's, or a MALLOC_* variable is set: there is nothing to compare")
    if threads is not None:
        torch.set_num_threads(threads)
    name, arguments, side, batch = CASES[title]
    batch = batch // 4 if quick else batch
    network = networks.create(name, 10, arguments=arguments)
    images, labels = torch.rand(batch, 3, side, side), torch.randint(10, (batch,))
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, momentum=0.9)

    def forward() -> None:
        with torch.inference_mode():
            network(images)

    def step() -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(network(images), labels).backward()
        optimizer.step()

    network.eval()
    found = {"forward": repeated(forward, 2 * calls)}
    network.train()
    found["training step"] = repeated(step, calls)
    print(json.dumps(found))


def measured(title: str, keep: bool, calls: int, args: argparse.Namespace) -> dict[str, Any]:
    code = f"from benchmarks.allocation import child; child({title!r}, {keep}, {calls}, {args.quick}, {args.threads})"
    clean = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_") and k != "GLIBC_TUNABLES"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=clean)
    if done.returncode:
        raise RuntimeError(f"{title}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every network in turn, print the tables, write the JSON."""
    args = options(parser("allocation", __doc__, rounds=5, quick=1), arguments)
    if sys.platform != "linux" or args.device.type != "cpu":
        print("benchmarks.allocation is about malloc of glibc: Linux, on the CPU")
        return 0
    titles = list(CASES)[:1] if args.quick else list(CASES)
    draw, rows, lines = random.Random(0), [], []
    for title in titles:
        found: dict[str, list[dict[str, Any]]] = {KEPT: [], RETURNED: []}
        for _ in range(args.rounds):
            for kind in draw.sample(list(found), 2):
                found[kind].append(measured(title, kind == KEPT, 1 if args.quick else 10, args))
        pairs = list(zip(found[KEPT], found[RETURNED], strict=True))
        for work in WORK:
            times = spread([a[work]["seconds"] / b[work]["seconds"] for a, b in pairs])
            peaks = spread([a[work]["peak"] / b[work]["peak"] for a, b in pairs])
            rows.append(row(f"time of a {work}, {title}, {KEPT}", RETURNED, times, 1.0))
            rows.append(row(f"peak memory of a {work}, {title}, {KEPT}", RETURNED, peaks, 1.1))
            for kind, each in found.items():
                taken, faults, peak = (
                    statistics.median(one[work][key] for one in each) for key in ("seconds", "faults", "peak")
                )
                held = ", ".join(f"{mb:.0f}" for mb in each[-1][work]["held"])
                lines.append([f"{work}, {title}", kind, 1000 * taken, round(faults), round(peak), held])
    head = ["what", "malloc", "ms", "page faults of a call", "peak, MB", "MB held after 2 calls, half and all of them"]
    return finish(args, rows, [table("Page faults and memory", head, lines)])


if __name__ == "__main__":
    sys.exit(main())
