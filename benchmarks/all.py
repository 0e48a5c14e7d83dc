"""All measurements of speed and memory, and the simulation of the intervals, each in a process of its own.

    python -m benchmarks.all --quick

shows in under five minutes on two cores that every one of them runs; its times mean little. Without --quick each takes
as many rounds as its numbers need and writes benchmarks/results/NAME.json, which the page "How fast" is made of; let
the machine do nothing else meanwhile. One that fails does not stop the others.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence

NAMES = (
    "train_step", "stem", "inference", "adaptive", "blt", "pipeline", "photo_loop", "large_photos", "epoch",
    "corruptions", "attack_cost", "memory", "allocation", "startup", "growth", "cifar10_fast", "coverage",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run them; the exit status is how many failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.all", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    args = parser.parse_args(arguments)
    failed = []
    for name in args.only:
        began = time.perf_counter()
        command = [sys.executable, "-m", f"benchmarks.{name}", "--device", args.device, *["--quick"] * args.quick]
        print(f"\n=== {name}", flush=True)
        status = subprocess.run(command, check=False).returncode
        print(
            f"=== {name}: {'done' if status == 0 else 'FAILED'} after {time.perf_counter() - began:.0f} s", flush=True
        )
        failed += [name] * (status != 0)
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return len(failed)


if __name__ == "__main__":
    sys.exit(main())
