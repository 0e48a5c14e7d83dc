"""Photos at 224 px: an epoch of `kedge.fit` and a pass of its evaluation beside the loop that one writes by hand.

    KEDGE_DATA=path/to/packs python -m benchmarks.photo_loop

The loop by hand: torchvision's ImageFolder and transforms (RandomResizedCrop, RandomHorizontalFlip, ToTensor,
Normalize; Resize and CenterCrop to evaluate) in a DataLoader, the same network, optimizer, batch size and workers,
cross-entropy. kedge trains the network as it is, with --anchored also anchored. The second epoch of a run is timed.
On a busy machine the clock tells of the others: beside it stands processor time, of this process and its workers.
"""

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import kedge.data
from benchmarks.pipeline import has_pack, made_up, only_files
from benchmarks.side_by_side import Times, finish, options, parser, ratio, row, spread, table, write
from kedge import networks
from kedge.data import FileSet
from kedge.layout import channels_last
from kedge.training import Recipe, fit
from kedge.training.calibration import predict_logits
from kedge.training.epochs import EpochRows

SIDE, BATCH, RATE = 224, 16, 1e-3
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TO_UNIT = [transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
CROPS = transforms.Compose([transforms.RandomResizedCrop(SIDE), transforms.RandomHorizontalFlip(), *TO_UNIT])
CENTRE = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(SIDE), *TO_UNIT])
Spent = tuple[float, float]  # seconds on the clock, seconds of processors


def now() -> Spent:
    """The clock, and what this process and its living workers have used of processors."""
    used = time.process_time()
    for child in multiprocessing.active_children():
        fields = Path(f"/proc/{child.pid}/stat").read_text().rpartition(")")[2].split()
        used += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return time.perf_counter(), used


def since(began: Spent) -> Spent:
    """Seconds since then, of both kinds."""
    ended = now()
    return ended[0] - began[0], ended[1] - began[1]


def as_files(photos: FileSet, folder: Path, count: int) -> Path:
    """The first photos of a set as files, in a folder for each class."""
    for i in range(min(count, len(photos))):
        place = folder / photos.class_names[int(photos.labels[i])] / f"{i:05d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        photos.items.image(int(photos.rows[i])).save(place, quality=95)
    return folder


def by_hand(folder: Path, network: str, workers: int) -> Spent:
    """The second epoch of training."""
    torch.manual_seed(0)
    data = ImageFolder(str(folder), CROPS)
    model = networks.create(network, len(data.classes)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    loader = DataLoader(data, BATCH, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    for epoch in range(2):
        began = now()
        for images, labels in loader:
            loss = cross_entropy(model(images), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        if epoch:
            return since(began)
    raise AssertionError("two epochs")


def by_kedge(images: FileSet, network: str, workers: int, anchored: bool) -> Spent:
    """The second epoch of a run."""
    began: list[Spent] = []
    times: list[Spent] = [(0.0, 0.0)]
    start = EpochRows.on_train_epoch_start

    def begin(self: EpochRows, *rest: Any) -> None:
        start(self, *rest)
        began.append(now())

    def step(self: EpochRows, *rest: Any) -> None:
        times[0] = since(began[-1])  # the last step of an epoch comes before its validation

    with (
        tempfile.TemporaryDirectory() as runs,
        patch.object(EpochRows, "on_train_epoch_start", begin),
        patch.object(EpochRows, "on_train_batch_end", step),
    ):
        recipe = Recipe(
            name="run", data="photos", runs=runs, model=network, pretrained=False, anchored=anchored, epochs=2,
            objective=[*([{"Anchored": {"alpha": 0.0}}] if anchored else []), "CrossEntropy"], batch_size=BATCH,
            optimizer="sgd", lr=RATE, momentum=0.9, weight_decay=0.0, nesterov=False, schedule="constant", warmup=0,
            folds=0, workers=workers, device="cpu", precision="32",
        )  # fmt: skip
        fit(recipe, sets=(images, images.subset([0, 1])), progress=False, report=False)
    return times[0]


def evaluation_by_hand(folder: Path, network: str, workers: int) -> Spent:
    """Answers to all photos."""
    data = ImageFolder(str(folder), CENTRE)
    model = networks.create(network, len(data.classes)).eval()
    began = now()
    with torch.inference_mode():
        for images, _ in DataLoader(data, BATCH, num_workers=workers):
            model(images)
        return since(began)


def evaluation_by_kedge(images: FileSet, network: str, workers: int, anchored: bool) -> Spent:
    """Answers of a model as `kedge evaluate` has it; with one reference where it is anchored."""
    made = networks.create(network, len(images.class_names))
    model: Any = (
        kedge.anchor(made, example=images.image_shape) if anchored else kedge.plain(made, example=images.image_shape)
    )
    model = channels_last(model.eval())
    began = now()
    predict_logits(model, images, BATCH, workers)
    return since(began)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    made = parser("photo_loop", __doc__, rounds=5, quick=1)
    made.add_argument("--images", type=int, default=192, help="photos of an epoch, at most")
    made.add_argument("--network", default="tf_efficientnet_lite0", help="a name of timm")
    made.add_argument("--anchored", action="store_true", help="time anchored models too")
    args = options(made, arguments)
    if args.device.type != "cpu":
        print("benchmarks.photo_loop compares loops on the CPU: it runs with --device cpu")
        return 0
    network, count = ("test_efficientnet", 32) if args.quick else (args.network, args.images)
    rows, tables = [], []
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        if has_pack("trashnet160") and not args.quick:
            source = "trashnet160, photos of 213 x 160"
            folder = as_files(only_files(kedge.data.load("trashnet160", "train", SIDE)), place / "photos", count)
        else:
            source = "made-up JPEG files of 320 x 240"
            folder = place / "photos"
            folder.mkdir()
            made_up(folder, count)
        small = only_files(kedge.data.load(folder, "train", SIDE))
        for workers in (1, 2):
            what = f"{len(small)} photos, {network}, batches of {BATCH}, {workers} worker{'s' * (workers > 1)}"
            sides: dict[str, Callable[[], Spent]] = {
                "by hand": lambda w=workers: by_hand(folder, network, w),
                "kedge": lambda w=workers: by_kedge(small, network, w, anchored=False),
                "evaluation by hand": lambda w=workers: evaluation_by_hand(folder, network, w),
                "kedge's evaluation": lambda w=workers: evaluation_by_kedge(small, network, w, anchored=False),
            }
            if args.anchored:
                sides |= {
                    "kedge, anchored": lambda w=workers: by_kedge(small, network, w, anchored=True),
                    "kedge's evaluation, anchored": lambda w=workers: evaluation_by_kedge(small, network, w, True),
                }
            clock, processor = spent(sides, args.rounds)
            for name in (name for name in sides if "by hand" not in name):
                against = "evaluation by hand" if "evaluation" in name else "by hand"
                for kind, times in (("processor time", processor), ("clock", clock)):
                    target = 1.0 if "anchored" not in name else None
                    rows.append(row(f"{name}: {what} ({kind})", against, ratio(times, name, against), target))
            head = ["", "seconds", "processor seconds", "images per processor second"]
            each = [
                [n, spread(clock[n])["median"], spread(processor[n])["median"],
                 len(small) / spread(processor[n])["median"]]
                for n in sides
            ]  # fmt: skip
            tables.append(table(what, head, each))
            write(args, rows, tables, source=source)
    return finish(args, rows, tables, source=source)


def spent(sides: dict[str, Callable[[], Spent]], rounds: int) -> tuple[Times, Times]:
    """Clock and processor seconds of each side in each round; the order turns from round to round."""
    clock: Times = {name: [] for name in sides}
    processor: Times = {name: [] for name in sides}
    names = list(sides)
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            seconds, used = sides[name]()
            clock[name].append(seconds)
            processor[name].append(used)
            print(f"{name}: {seconds:.1f} s, {used:.1f} s of processors", file=sys.stderr, flush=True)
    return clock, processor


if __name__ == "__main__":
    sys.exit(main())
