"""Time and memory against the number of images: listing, splitting and the first batch, predict, shards, evaluation.

    python -m benchmarks.million             # a quarter of an hour
    python -m benchmarks.million --listed 1000000 --quick    # the folder of a million for real, the rest small

Each size runs in a process of its own, whose processor time and peak of memory are read, less what a process takes that
does everything for a few images. The exponent is the slope of log cost against log size, 1 is linear: at most 1 for
time, and about 0 for memory where nothing is kept for an image. Folders are hard links to a thousand small JPEG files,
so the disk is warm; what a disk takes is not measured.
"""

import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.side_by_side import exponent, finish, options, parser, table

DIFFERENT, SIDE, CLASSES = 1000, 96, 100
FEW = 200  # images of the process that is subtracted
LINEAR = 1.05


def sources(place: Path) -> list[Path]:
    """A thousand small pictures."""
    import numpy as np
    from PIL import Image

    place.mkdir(exist_ok=True)
    paths = [place / f"{i:04d}.jpg" for i in range(DIFFERENT)]
    draws = np.random.default_rng(0)
    for path in paths:
        if not path.exists():
            pixels = draws.integers(0, 256, (12, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((SIDE, SIDE)).save(path, quality=80)
    return paths


def folder(place: Path, count: int) -> Path:
    """An image folder of `count` hard links."""
    root, originals = place / f"photos-{count}", sources(place / "originals")
    if root.exists():
        return root
    for c in range(CLASSES):
        (root / f"class{c:03d}").mkdir(parents=True)
    for i in range(count):
        os.link(originals[i % DIFFERENT], root / f"class{i % CLASSES:03d}" / f"image_{i:07d}.jpg")
    return root


def shards(place: Path, count: int) -> Path:
    """Shards of a thousand images at most."""
    root, originals = place / f"shards-{count}", sources(place / "originals")
    if root.exists():
        return root
    root.mkdir()
    for shard in range(-(-count // 1000)):
        with tarfile.open(root / f"train-{shard:06d}.tar", "w") as tar:
            for i in range(shard * 1000, min(count, (shard + 1) * 1000)):
                tar.add(originals[i % DIFFERENT], f"{i:07d}.jpg")
                about = tarfile.TarInfo(f"{i:07d}.cls")
                text = str(i % CLASSES).encode()
                about.size = len(text)
                tar.addfile(about, io.BytesIO(text))
    return root


def listing(place: Path, count: int) -> None:
    """Load a folder, hold out a tenth, take the first batch."""
    from kedge import data

    train, _ = data.split_validation(data.load(folder(place, count), image_size=SIDE))
    next(iter(data.training_batches(train, 32, 0, workers=0)))


def streaming(place: Path, count: int) -> None:
    """Read shards once to hold out a tenth, then an epoch of them."""
    from kedge import data

    found = data.stream(shards(place, count), SIDE)
    assert found is not None
    for _ in data.training_batches(found[0], 64, 0, workers=0, augment="none"):
        pass


def predicting(place: Path, count: int) -> None:
    """`kedge predict` to a file of JSON lines."""
    from kedge.cli import main

    out = place / f"answers-{count}.jsonl"
    out.unlink(missing_ok=True)
    with contextlib.redirect_stderr(io.StringIO()):
        main(["predict", str(model(place)), str(folder(place, count)), "--out", str(out)])
    assert sum(1 for _ in out.open()) == count


def evaluating(place: Path, count: int) -> None:
    """`evaluate` on a folder at 224 pixels, clean and a corruption of two severities."""
    import kedge
    from kedge import data
    from kedge.evaluation import evaluate

    images = data.load(folder(place, count), image_size=224)
    torch.manual_seed(0)  # next to no network: the images are what counts
    network = torch.nn.Sequential(torch.nn.AvgPool2d(28), torch.nn.Flatten(), torch.nn.Linear(192, CLASSES))
    subject = kedge.plain(network, example=(3, 224, 224)).eval()
    evaluate(subject, images, shift=("brightness",), severities=(1, 3), resamples=100, batch_size=64)


def model(place: Path) -> Path:
    """Where a tiny network of as many classes is saved."""
    import kedge

    saved = place / "model"
    if not saved.exists():
        torch.manual_seed(0)
        network = kedge.networks.create("kedge_resnet_small", CLASSES, 3, SIDE, arguments={"width": 4})
        made = kedge.plain(network, example=(3, SIDE, SIDE)).eval()
        made.class_names = [f"class{c:03d}" for c in range(CLASSES)]
        kedge.save(made, saved)
    return saved


WORK: dict[str, Callable[[Path, int], None]] = {
    "listing": listing,
    "streaming": streaming,
    "predicting": predicting,
    "evaluating": evaluating,
}
TITLES = {
    "listing": "listing, splitting, first batch",
    "streaming": "shards: first pass and an epoch",
    "predicting": "`kedge predict` to a file",
    "evaluating": "`evaluate` at 224 px, 3 passes",
}


def measured(what: str, place: Path, count: int) -> dict[str, float]:
    """Processor and clock seconds and peak memory of a process that does `what`."""
    command = [sys.executable, "-m", "benchmarks.million", "--one", what, str(place), str(count)]
    said = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(said.splitlines()[-1])


def one(what: str, place: Path, count: int) -> None:
    """Do `what` in this process, and print what it took."""
    import kedge.evaluation  # noqa: F401 - what is imported counts for no size

    WORK[what](place, FEW)  # so that what is made once is made
    before, began, clock = resource.getrusage(resource.RUSAGE_SELF), time.process_time(), time.perf_counter()
    WORK[what](place, count)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {"seconds": time.process_time() - began, "clock": time.perf_counter() - clock}
    print(json.dumps({**result, "megabytes": after / 1024, "more": (after - before.ru_maxrss) / 1024}))


def row(what: str, count: int, took: dict[str, float]) -> list[Any]:
    """A line of the table."""
    return [TITLES[what], count, took["seconds"], took["clock"], took["megabytes"], took["more"]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given[:1] == ["--one"]:
        one(given[1], Path(given[2]), int(given[3]))
        return 0
    made = parser("million", __doc__, rounds=1, quick=1)
    made.add_argument("--listed", type=int, help="also list, split and begin a folder of so many images")
    made.add_argument("--place", type=Path, help="where folders are made and left; default: a temporary folder")
    args = options(made, given)
    sizes = {
        "listing": (500, 2000) if args.quick else (20_000, 60_000, 200_000),
        "streaming": (500, 2000) if args.quick else (1000, 4000, 16_000),
        "predicting": (500, 2000) if args.quick else (1000, 10_000, 100_000),
        "evaluating": (300, 600) if args.quick else (400, 4800, 50_000),
    }
    rows: list[list[Any]] = []
    slopes: list[list[Any]] = []
    with contextlib.ExitStack() as stack:
        place = args.place or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        place.mkdir(exist_ok=True, parents=True)
        for what, counts in sizes.items():
            for count in counts:  # folders and models, made by a process that is not measured
                (shards if what == "streaming" else folder)(place, count)
            took = [measured(what, place, count) for count in counts]
            rows += [row(what, count, each) for count, each in zip(counts, took, strict=True)]
            rise = exponent(counts, [each["seconds"] for each in took])
            memory = exponent(counts, [each["megabytes"] for each in took])
            per_image = (took[-1]["megabytes"] - took[0]["megabytes"]) * 2**20 / (counts[-1] - counts[0])
            verdict = "linear or better" if max(rise, memory) <= LINEAR else "more than linear"
            slopes.append([TITLES[what], f"{counts[0]} to {counts[-1]}", rise, memory, per_image, verdict])
            print(*slopes[-1], sep=", ", file=sys.stderr)
        if args.listed:
            folder(place, args.listed)
            rows.append(row("listing", args.listed, measured("listing", place, args.listed)))
    head = ["work", "images", "processor s", "clock s", "peak MB", "of that for these images MB"]
    tables = [
        table("Time and memory against the number of images", head, rows),
        table(
            "Exponents",
            ["work", "images", "of time", "of peak memory", "bytes an image more", "which is"],
            slopes,
        ),
    ]
    return finish(args, tables=tables)


if __name__ == "__main__":
    sys.exit(main())
