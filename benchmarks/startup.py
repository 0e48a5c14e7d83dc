"""How long kedge takes to start: `import kedge` and the help of its commands, against `import torch` and Python itself.

    python -m benchmarks.startup

Every measurement is a new process, in an order drawn anew each round; the time includes the start of Python. A
difference is of the same round.
"""

import subprocess
import sys
from collections.abc import Callable, Sequence

from benchmarks.side_by_side import finish, in_turn, options, parser, row, spread, table

PROCESSES = {
    "python": ["-c", "pass"],
    "import torch": ["-c", "import torch"],
    "import kedge": ["-c", "import kedge"],
    "import torch, kedge; kedge.anchor": ["-c", "import torch, kedge; kedge.anchor"],
    "kedge --help": ["-m", "kedge", "--help"],
    "kedge --version": ["-m", "kedge", "--version"],
    "kedge version": ["-m", "kedge", "version"],
    "kedge train --help": ["-m", "kedge", "train", "--help"],
    "kedge evaluate --help": ["-m", "kedge", "evaluate", "--help"],
    "kedge predict --help": ["-m", "kedge", "predict", "--help"],
}
SHORT = ("python", "import torch", "import kedge", "import torch, kedge; kedge.anchor", "kedge --help")
ANCHOR = "import torch, kedge; kedge.anchor"


def started(arguments: Sequence[str]) -> Callable[[], object]:
    """A new Python with these arguments, waited for."""
    return lambda: subprocess.run([sys.executable, *arguments], check=True, capture_output=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Start everything in turn, print the table, write the JSON."""
    args = options(parser("startup", __doc__, rounds=11, quick=1), arguments)
    if args.device.type != "cpu":
        print("benchmarks.startup starts programs, which is the same on any device: it runs with --device cpu")
        return 0
    chosen = {name: words for name, words in PROCESSES.items() if not args.quick or name in SHORT}
    times = in_turn({name: started(words) for name, words in chosen.items()}, args.rounds, warm=0 if args.quick else 1)

    def against(name: str, more: float) -> dict[str, float]:
        """The time of `name` as a share of `import torch` and so many seconds."""
        return spread([a / (b + more) for a, b in zip(times[name], times["import torch"], strict=True)])

    rows = [
        row("import kedge", "import torch, and 0.2 s", against("import kedge", 0.2), 1.0),
        row("import kedge and its core (kedge.anchor)", "import torch, and 0.2 s", against(ANCHOR, 0.2), 1.0),
        row("kedge --help", "0.6 s", spread([t / 0.6 for t in times["kedge --help"]]), 1.0),
    ]
    head = ["process", "seconds", "quartile", "quartile"]
    found = {name: spread(taken) for name, taken in times.items()}
    lines = [[name, of["median"], of["low"], of["high"]] for name, of in found.items()]
    return finish(args, rows, [table("Seconds from start to end of a process", head, lines)])


if __name__ == "__main__":
    sys.exit(main())
