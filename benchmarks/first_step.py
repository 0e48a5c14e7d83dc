"""From the start of `kedge train` on a folder of photos, with published weights from a file, to its first step.

    KEDGE_DATA=path/to/packs python -m benchmarks.first_step --weights tf_efficientnet_lite0.safetensors

Each round is a new process, which ends as its first training step begins. The linear probe that training starts from is
a pass of the network over all photos: it is given apart. On a busy machine the clock tells of the others: beside it
stands processor time.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

STAGES = ("PyTorch", "other imports", "images, network, anchoring", "linear probe", "from there to the first step")
TARGET = 5.0  # seconds to the first step, the probe left out


def inside(folder: str, weights: str, network: str) -> None:
    """Train until the first step begins, and print the clock and the processor time at the end of each stage."""
    from kedge.cli import own_process

    own_process()
    import torch  # noqa: F401

    marks = [_mark()]
    from kedge import training
    from kedge.training import module, prepare

    marks.append(_mark())
    probe = prepare.set_probe

    def probed(*arguments: Any) -> Any:
        marks.append(_mark())
        result = probe(*arguments)
        marks.append(_mark())
        return result

    def first(*_: Any) -> None:
        marks.append(_mark())
        print(json.dumps(marks), flush=True)
        os._exit(0)

    prepare.set_probe = probed  # type: ignore[attr-defined]
    module.Run.training_step = first  # type: ignore[assignment, method-assign]
    with tempfile.TemporaryDirectory() as runs:
        recipe = {"data": folder, "model": network, "weights": weights, "pretrained": True, "runs": runs, "folds": 0}
        training.fit({**recipe, "device": "cpu"}, progress=False)


def _mark() -> tuple[float, float]:
    return time.time(), time.process_time()


def one(folder: Path, weights: Path, network: str, threads: int | None) -> list[tuple[float, float]]:
    """(seconds on the clock, of processors) of each stage of a new process."""
    words = [sys.executable, "-m", "benchmarks.first_step", "--inside", str(folder), str(weights), network]
    environment = {**os.environ, **({} if threads is None else {"OMP_NUM_THREADS": str(threads)})}
    began = time.time(), 0.0
    done = subprocess.run(words, check=True, capture_output=True, text=True, env=environment)
    marks = [began, *json.loads(done.stdout.strip().splitlines()[-1])]
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(marks)]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["--inside"]:
        inside(*words[1:])
        return 0
    from benchmarks.side_by_side import finish, options, parser, row, spread, table  # they import torch

    made = parser("first_step", __doc__, rounds=5, quick=1)
    made.add_argument("--weights", type=Path, required=True, help="published weights of the network")
    made.add_argument("--network", default="tf_efficientnet_lite0", help="a name of timm")
    made.add_argument("--pack", default="ants_bees256", help="a folder of $KEDGE_DATA")
    made.add_argument("--images", type=int, default=244, help="photos, at most")
    args = options(made, words)
    import kedge.data
    from benchmarks.photo_loop import as_files
    from benchmarks.pipeline import only_files

    with tempfile.TemporaryDirectory() as scratch:
        photos = only_files(kedge.data.load(args.pack, "train", 224))
        folder = as_files(photos, Path(scratch) / "photos", args.images)
        rounds = [one(folder, args.weights.resolve(), args.network, args.threads) for _ in range(args.rounds)]
    count = min(args.images, len(photos))
    what = f"{count} photos of {args.pack}, {args.network}"
    rows, lines = [], []
    for kind, place in (("processor time", 1), ("clock", 0)):
        probe = STAGES.index("linear probe")
        without = [sum(each[place] for each in stages) - stages[probe][place] for stages in rounds]
        rows.append(row(f"to the first step, the probe left out: {what} ({kind})", f"{TARGET:g} s",
                        spread([seconds / TARGET for seconds in without]), 1.0))  # fmt: skip
    for number, stage in enumerate(STAGES):
        clock, used = (spread([stages[number][place] for stages in rounds])["median"] for place in (0, 1))
        lines.append([stage, clock, used])
    return finish(args, rows, [table(f"Seconds: {what}", ["", "clock", "processor"], lines)])


if __name__ == "__main__":
    sys.exit(main())
