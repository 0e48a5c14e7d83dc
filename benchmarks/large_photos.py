"""Reading photos of 12 megapixels: decoding and cropping for training at 224 px, without a network.

    KEDGE_DATA=path/to/packs python -m benchmarks.large_photos

The photos are real ones (the pack ants_bees256) enlarged to 4000 x 3000, with grain of a standard deviation of 5 grey
levels so that JPEG files of quality 92 are as large as a camera's. Read by torchvision's ImageFolder and transforms in
a DataLoader, by kedge, and by kedge with its cache on disk, each in this process, on one thread. Times are of
processors. The peak of memory is that of a new process that reads them once, above what it held before.
"""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder

import kedge.data
from benchmarks.photo_loop import BATCH, CROPS, SIDE, as_files
from benchmarks.pipeline import has_pack, made_up, only_files
from benchmarks.side_by_side import Times, finish, options, parser, ratio, row, spread, table
from kedge.data import training_batches, with_cache

BY_HAND, DECODED, CACHED = "torchvision, whole photos", "kedge, decoded small", "kedge, cache on disk"


def large(folder: Path, photos: Path, count: int) -> Path:
    """Photos of 12 megapixels, made of others."""
    draws = np.random.default_rng(0)
    for path in sorted(photos.glob("*/*.jpg"))[:: max(1, len(list(photos.glob("*/*.jpg"))) // count)][:count]:
        with Image.open(path) as image:
            size = (4000, 3000) if image.width >= image.height else (3000, 4000)
            pixels = np.asarray(ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC), dtype=np.float32)
        grainy = pixels + 5 * draws.standard_normal((*pixels.shape[:2], 1), dtype=np.float32)
        place = folder / path.parent.name / path.name
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grainy.clip(0, 255).astype(np.uint8)).save(place, quality=92)
    return folder


def readers(folder: Path, cache: Path) -> dict[str, Callable[[], Any]]:
    """What reads all photos once, by name."""
    photos = only_files(kedge.data.load(folder, "train", SIDE))

    def epoch(images: kedge.data.ImageSet) -> None:
        for _ in training_batches(images, BATCH, seed=0, workers=0):
            pass

    return {
        BY_HAND: lambda: [None for _ in DataLoader(ImageFolder(str(folder), CROPS), BATCH, shuffle=True)],
        DECODED: lambda: epoch(photos),
        CACHED: lambda: epoch(with_cache(photos, cache)),
    }


def peak(name: str, folder: Path, cache: Path) -> float:
    """MB that a new process holds at most while it reads the photos, above what it held before."""
    words = [sys.executable, "-m", "benchmarks.large_photos", "--inside", name, str(folder), str(cache)]
    return float(subprocess.run(words, check=True, capture_output=True, text=True).stdout)


def inside(name: str, folder: str, cache: str) -> None:
    """Read the photos, and print the peak of memory."""
    torch.set_num_threads(1)
    call = readers(Path(folder), Path(cache))[name]
    before = _held("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak from here on
    call()
    print(_held("VmHWM") - before)


def _held(key: str) -> float:
    """A line of /proc/self/status, in MB."""
    text = Path("/proc/self/status").read_text().partition(f"{key}:")[2]
    return int(text.split()[0]) / 1024


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words[:1] == ["--inside"]:
        inside(*words[1:])
        return 0
    made = parser("large_photos", __doc__, rounds=5, quick=1)
    made.add_argument("--images", type=int, default=24, help="photos")
    args = options(made, words)
    if args.device.type != "cpu":
        print("benchmarks.large_photos reads photos, which is the same on any device: it runs with --device cpu")
        return 0
    torch.set_num_threads(1)
    count = 4 if args.quick else args.images
    with tempfile.TemporaryDirectory() as scratch:
        folder, cache, small = (Path(scratch) / name for name in ("large", "cache", "small"))
        small.mkdir()
        if has_pack("ants_bees256"):
            as_files(only_files(kedge.data.load("ants_bees256", "train", SIDE)), small, 4 * count)
        else:
            made_up(small, count)
        calls = readers(large(folder, small, count), cache)
        files = list(folder.glob("*/*.jpg"))
        began = time.process_time()
        calls[CACHED]()
        filling = time.process_time() - began
        times: Times = {name: [] for name in calls}
        for turn in range(args.rounds):
            for name in [*calls][turn % len(calls) :] + [*calls][: turn % len(calls)]:
                began = time.process_time()
                calls[name]()
                times[name].append(time.process_time() - began)
        peaks = {name: peak(name, folder, cache) for name in calls}
        sizes = [sum(path.stat().st_size for path in found) / 1e6 / len(files) for found in (files, cache.glob("*/*"))]
    rows = [
        row(f"{name}: {len(files)} photos of 12 megapixels (processor time)", BY_HAND, ratio(times, name, BY_HAND))
        for name in (DECODED, CACHED)
    ]
    lines = [[name, len(files) / spread(times[name])["median"], peaks[name]] for name in calls]
    lines.append(["kedge, filling the cache", len(files) / filling, None])
    note = f"A file has {sizes[0]:.1f} MB, a photo in the cache {sizes[1]:.1f} MB."
    head = ["", "photos per second of a processor", "peak of memory in MB"]
    return finish(args, rows, [table(f"Reading {len(files)} photos of 12 megapixels", head, lines, note)])


if __name__ == "__main__":
    sys.exit(main())
