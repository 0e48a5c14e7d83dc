"""Images per second to the point where a network takes them: decoded once and augmented as a batch, or one by one.

    python -m benchmarks.pipeline

Small images: kedge's batches of 50,000 images of 32 px in memory, cropped, mirrored, floating point and channels_last
on the device, against the usual transforms of torchvision on one PIL image after another (RandomCrop with padding 4,
RandomHorizontalFlip, ToTensor) in a DataLoader with 2 workers, moved to the device. Both normalise, the usual one image
by image, kedge as its models do, on the batch. Beside it kedge's share of a training step, of ResNet-18 on a GPU.

Photos: how much of a training loop at 224 px is spent waiting for the next batch ("stall share"), from image files with
and without workers, where the network is so small that reading shows.
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import kedge.data
import kedge.networks  # registers kedge_resnet18
from benchmarks.side_by_side import finish, in_turn, options, parser, ratio, row, table
from kedge.data import FileSet, ImageSet, TensorSet, augment_batch, generator, training_batches
from kedge.layout import channels_last

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
CLASSES = [f"class {i}" for i in range(10)]


class OneByOne(Dataset):
    """Arrays `[H, W, 3]`, each made a PIL image and transformed when it is asked for."""

    def __init__(self, arrays: np.ndarray, labels: Sequence[int]) -> None:
        self.arrays, self.labels = arrays, labels
        steps = [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip()]
        self.transform = transforms.Compose([*steps, transforms.ToTensor(), transforms.Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.arrays[i])), self.labels[i]


def in_memory(count: int) -> TensorSet:
    """Random images of 32 px: what is in them does not change what they cost."""
    pixels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return TensorSet(pixels, torch.arange(count) % 10, CLASSES, "random")


def batched(images: TensorSet, batch: int, device: torch.device) -> Callable[[], None]:
    """An epoch of kedge's batches, each as its network takes it."""
    batches = training_batches(images, batch, seed=0, device=device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (MEAN, STD))
    draws = generator(0, device=device)

    def epoch() -> None:
        for some, _ in batches:
            pixels = augment_batch(some.to(device, non_blocking=True), draws).float().div_(255)
            (pixels - mean) / std

    return epoch


def one_by_one(images: TensorSet, batch: int, device: torch.device) -> Callable[[], None]:
    """An epoch of the usual batches, on the device."""
    arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy()
    pin = device.type == "cuda"
    loader = DataLoader(OneByOne(arrays, images.labels.tolist()), batch, shuffle=True, num_workers=2, pin_memory=pin)

    def epoch() -> None:
        for some, _ in loader:
            some.to(device, non_blocking=True)

    return epoch


def training(name: str, images: int, batch: int, device: torch.device) -> Callable[[], None]:
    """As many training steps as an epoch has, on one batch that is there already; in bf16 on a GPU."""
    model = channels_last(timm.create_model(name, num_classes=10).to(device), always=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    pixels = torch.rand(batch, 3, 32, 32, device=device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,), device=device)

    def epoch() -> None:
        for _ in range(-(-images // batch)):
            learn(model, optimizer, pixels, labels)

    return epoch


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, pixels: Tensor, labels: Tensor) -> None:
    """One step of plain training."""
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=pixels.is_cuda):
        loss = cross_entropy(model(pixels), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def stalls(photos: FileSet, workers: int, device: torch.device, batch: int) -> dict[str, float]:
    """The part of an epoch that the loop waits for its batches, the first batch left out, and images per second."""
    # 0.2 M parameters, as small as networks for photos get.
    model = timm.create_model("test_byobnet", num_classes=len(photos.class_names))
    channels_last(model.to(device), always=True)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    batches = iter(training_batches(photos, batch, seed=0, workers=workers))
    next(batches)  # the workers start, and fill what they read ahead
    waited, images, began = 0.0, 0, time.perf_counter()
    while True:
        asked = time.perf_counter()
        found = next(batches, None)
        waited += time.perf_counter() - asked
        if found is None:
            break
        some, labels = (each.to(device, non_blocking=True) for each in found)
        pixels = some.float().div_(255).contiguous(memory_format=torch.channels_last)
        learn(model, optimizer, pixels, labels)
        if device.type == "cuda":
            torch.cuda.synchronize()  # what the step takes is not to be counted as waiting
        images += len(labels)
    whole = time.perf_counter() - began
    return {"share": waited / whole, "rate": images / whole}


def made_up(folder: Path, count: int) -> FileSet:
    """JPEG files of 320 x 240, noise that was blurred so that they are as large as photos are."""
    draw = np.random.default_rng(0)
    for i in range(count):
        place = folder / f"class {i % 2}" / f"{i}.jpg"
        place.parent.mkdir(exist_ok=True)
        coarse = Image.fromarray(draw.integers(0, 256, (30, 40, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(place, quality=90)
    return only_files(kedge.data.load(str(folder), "train", 224))


def has_pack(name: str) -> bool:
    """Whether $KEDGE_DATA holds this set."""
    return "KEDGE_DATA" in os.environ and (Path(os.environ["KEDGE_DATA"]) / name).is_dir()


def only_files(images: ImageSet) -> FileSet:
    """`images`, which are read from files."""
    assert isinstance(images, FileSet)
    return images


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("pipeline", __doc__, rounds=7, quick=2), arguments)
    gpu = args.device.type == "cuda"
    batch, count = 512 if gpu else 128, 1_000 if args.quick else 50_000
    images = in_memory(count)
    calls = {"kedge": batched(images, batch, args.device), "one by one": one_by_one(images, batch, args.device)}
    network = "kedge_resnet18" if gpu else "kedge_resnet_small"
    few = count if gpu else 4 * batch  # of an epoch of training, where it would take long
    calls["training"] = training(network, few, batch, args.device)
    times = in_turn(calls, args.rounds, args.device, warm=1)
    times["training"] = [seconds * count / few for seconds in times["training"]]
    what = f"{count:,} images of 32 px, batches of {batch}"
    rows = [
        row(f"images per second, batch augmentation: {what}", "torchvision one by one, 2 workers",
            ratio(times, "one by one", "kedge"), 10, least=True),
        row(f"time of the input pipeline: {what}", f"training steps of {network}", ratio(times, "kedge", "training"),
            0.05 if gpu else None),
    ]  # fmt: skip
    rates: list[list[Any]] = [
        [name, *(count / value for value in (statistics.median(times[name]), min(times[name]), max(times[name])))]
        for name in ("kedge", "one by one", "training")
    ]
    tables = [table(f"Images per second: {what}", ["", "median", "best", "worst"], rates)]
    with tempfile.TemporaryDirectory() as folder:
        if args.quick or not has_pack("trashnet160"):
            photos, source = made_up(Path(folder), 48 if args.quick else 1_000), "made-up JPEG files of 320 x 240"
        else:
            photos, source = (
                only_files(kedge.data.load("trashnet160", "train", 224)),
                "trashnet160, photos of 213 x 160",
            )
        waits = []
        for workers in (0, 2, 8) if gpu else (0, 2):
            found = stalls(photos, workers, args.device, 16 if args.quick else 64)
            waits.append([workers, f"{100 * found['share']:.0f} %", found["rate"]])
    note = "The network is timm's test_byobnet (0.2 M parameters): with a larger one the share is smaller."
    head = ["workers", "stall share", "images per second"]
    tables.append(table(f"Waiting for photos at 224 px ({source}, {len(photos):,} images)", head, waits, note))
    return finish(args, rows, tables)


if __name__ == "__main__":
    sys.exit(main())
