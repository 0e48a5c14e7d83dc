"""An epoch of anchored training on CIFAR-10: `kedge.fit` against a plain script with the structure of the authors'.

    KEDGE_DATA=path/to/packs python -m benchmarks.epoch

The plain script, written here from the description of the method: a DataLoader with 2 workers and torchvision's
transforms on one PIL image after another, a second one over the same images for the references, both shuffled,
`[r, x - r]` concatenated into a network whose first layer is a fresh one of six channels, cross-entropy, SGD. The same
network, images, batch size, optimizer and precision (bf16 on a GPU) on both sides, which take turns; kedge's seconds
include the validation of 500 images at the end of an epoch. On a GPU the second epoch is timed, on a CPU the first.
Beside them as many bare training steps on a batch that is there already: what no pipeline can go below.
"""

import random
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

import kedge.data
from benchmarks.pipeline import OneByOne, has_pack, in_memory
from benchmarks.side_by_side import Times, finish, options, parser, ratio, row, seconds, table
from kedge import networks
from kedge.data import TensorSet
from kedge.layout import channels_last
from kedge.objectives import Anchored, CrossEntropy
from kedge.training import Recipe, fit

VALIDATED = 500


def by_kedge(network: str, arguments: dict[str, Any], images: TensorSet, batch: int, epochs: int, device: str) -> float:
    """Seconds of the last epoch of a run."""
    sets = images, images.subset(range(min(VALIDATED, len(images))))
    with tempfile.TemporaryDirectory() as folder:
        recipe = Recipe(
            name="run", data="cifar10", runs=folder, model=network, arguments=arguments, epochs=epochs,
            objective=[{"Anchored": {"alpha": 0.0}}, "CrossEntropy"], batch_size=batch, optimizer="sgd", lr=0.01,
            weight_decay=5e-4, schedule="constant", warmup=0, device=device,
        )  # fmt: skip
        return float(fit(recipe, sets=sets, progress=False).history[-1]["seconds"])


def by_script(
    network: str, arguments: dict[str, Any], images: TensorSet, batch: int, epochs: int, device: str
) -> float:
    """Seconds of the last epoch of the plain script."""
    torch.manual_seed(0)
    arrays = images.images.permute(0, 2, 3, 1).contiguous().numpy()
    data = OneByOne(arrays, images.labels.tolist())
    loaders = [DataLoader(data, batch, shuffle=True, num_workers=2, pin_memory=device == "cuda") for _ in range(2)]
    model = networks.create(network, len(images.class_names), in_channels=6, arguments=arguments).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def epoch() -> None:
        for (x, labels), (r, _) in zip(*loaders, strict=True):
            x, r, labels = (each.to(device, non_blocking=True) for each in (x, r, labels))
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = cross_entropy(model(torch.cat([r, x - r], 1)), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return [seconds(epoch, torch.device(device)) for _ in range(epochs)][-1]


def bare(network: str, arguments: dict[str, Any], images: TensorSet, batch: int, epochs: int, device: str) -> float:
    """Seconds of an epoch's training steps on one batch that is there already."""
    pixels = (images.images[:batch].float() / 255).to(device).contiguous(memory_format=torch.channels_last)
    labels = images.labels[:batch].to(device)
    made = networks.create(network, len(images.class_names), arguments=arguments)
    model: nn.Module = kedge.anchor(made, references=pixels[:4].cpu())
    model = channels_last(model.to(device), always=True).train()
    objective = Anchored(CrossEntropy(), alpha=0.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)

    def epoch() -> None:
        for _ in range(-(-len(images) // batch)):
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                loss = objective(model, pixels, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    return [seconds(epoch, torch.device(device)) for _ in range(epochs)][-1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    made = parser("epoch", __doc__, rounds=5, quick=1)
    made.add_argument("--width", type=int, default=8, help="of kedge_resnet_small, the network on a CPU")
    made.add_argument("--images", type=int, default=50_000, help="of an epoch, at most")
    args = options(made, arguments)
    gpu = args.device.type == "cuda"
    network, given = (
        ("kedge_resnet18", {}) if gpu else ("kedge_resnet_small", {"width": 4 if args.quick else args.width})
    )
    if args.quick:
        images = in_memory(512)
    elif has_pack("cifar10"):
        loaded = kedge.data.load("cifar10", "train")
        assert isinstance(loaded, TensorSet)
        few = slice(args.images)
        images = TensorSet(loaded.images[few], loaded.labels[few], loaded.class_names, "cifar10")
    else:
        print("the cifar10 pack is not in $KEDGE_DATA: images of random pixels take its place", file=sys.stderr)
        images = in_memory(args.images)
    batch = 128
    sides: dict[str, Callable[..., float]] = {"kedge.fit": by_kedge, "plain script": by_script, "bare steps": bare}
    times: Times = {name: [] for name in sides}
    order, draw = list(sides), random.Random(0)
    for _ in range(args.rounds):
        draw.shuffle(order)
        for name in order:
            began = time.perf_counter()
            times[name].append(sides[name](network, given, images, batch, 2 if gpu else 1, args.device.type))
            print(f"{name}: {times[name][-1]:.1f} s of {time.perf_counter() - began:.1f} s", file=sys.stderr)
    width = "" if gpu else f" at width {given['width']}"
    what = f"{len(images):,} images, {network}{width}, batches of {batch}"
    rows = [
        row(f"images per second in an epoch of kedge.fit: {what}", "plain script, PIL transforms, two loaders",
            ratio(times, "plain script", "kedge.fit"), 3.0 if gpu else 1.15, least=True),
        row(f"time of an epoch of kedge.fit: {what}", "bare training steps", ratio(times, "kedge.fit", "bare steps")),
    ]  # fmt: skip
    head = ["", *(f"round {i + 1}" for i in range(args.rounds)), "images per second"]
    each = [[name, *values, len(images) / statistics.median(values)] for name, values in times.items()]
    return finish(args, rows, [table("Seconds of an epoch", head, each)], source=images.name)


if __name__ == "__main__":
    sys.exit(main())
