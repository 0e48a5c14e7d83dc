"""What a split promises of photos that were taken in bursts, what new photos give, and what the alarm says of it.

    KEDGE_DATA=DATA python -m benchmarks.leaks --weights tf_efficientnet_lite0.safetensors

Photos of the pack trashnet160 are things; of some a burst is made, each shot moved, turned, zoomed, lit and compressed
a little otherwise. A linear probe on a published network learns from the shots that a split leaves to train on, and is
judged by those held out (what is promised) and by photos of other things (what is true). Splits are by image, as
`kedge train` draws them, by what `--split_by near` finds, and by the things themselves. The alarm is what
`kedge train` looks for: which images held out have a near twin in training; it is set against which truly have one.
"""

import argparse
import io
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from benchmarks.side_by_side import RESULTS, command
from kedge import data
from kedge.cli.foreign import load_timm
from kedge.clock import now
from kedge.data import Groups, ImageSet, group_by, split_validation
from kedge.data.twins import twins
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.probe import ProbeData, fit_probe

NETWORK = "tf_efficientnet_lite0"
SIDE = 128
# How far shots lie apart: the largest shift as a share of the side, turn in degrees, zoom, light, and grain.
BURSTS = {
    "a tripod": (0.01, 0.5, 0.01, 0.05),
    "a steady hand": (0.02, 1.2, 0.025, 0.06),
    "moving": (0.05, 3, 0.06, 0.15),
}

SETS = (
    "digits",
    "mnist",
    "fashion_mnist",
    "cifar10",
    "trashnet160",
    "ants_bees256",
    "textures10_64",
    "traffic_signs43_64",
)


def photos(split: str) -> tuple[list[Image.Image], list[str]]:
    """The pictures of the pack and their classes."""
    table = pq.read_table(next((Path(os.environ["KEDGE_DATA"]) / "trashnet160").glob(f"{split}-*.parquet")))
    told = json.loads(table.schema.metadata[b"huggingface"])["info"]["features"]["label"]["names"]
    encoded = table["image"].combine_chunks().field("bytes")
    return [Image.open(io.BytesIO(b.as_py())).convert("RGB") for b in encoded], [
        told[c] for c in table["label"].to_pylist()
    ]


def shot(image: Image.Image, apart: Sequence[float], rng: random.Random) -> Image.Image:
    """The picture from a little elsewhere, a moment later."""
    shift, turn, zoom, light = apart
    width, height = image.size
    edge = tuple(int(v) for v in np.asarray(image)[:3].mean((0, 1)))
    image = image.rotate(rng.uniform(-turn, turn), Image.Resampling.BILINEAR, fillcolor=edge)
    size = 0.9 / (1 + rng.uniform(0, zoom))
    left = (1 - size) / 2 * width + rng.uniform(-shift, shift) * width
    top = (1 - size) / 2 * height + rng.uniform(-shift, shift) * height
    box = (int(left), int(top), int(left + size * width), int(top + size * height))
    image = image.crop(box).resize((width, height), Image.Resampling.BILINEAR)
    image = ImageEnhance.Brightness(image).enhance(1 + rng.uniform(-light, light))
    grain = np.random.default_rng(rng.randrange(1 << 30)).normal(0, 4, (height, width, 3))
    return Image.fromarray((np.asarray(image, np.float32) + grain).clip(0, 255).astype(np.uint8))


def write_bursts(
    folder: Path, things: Sequence[int], each: int, apart: Sequence[float], rng: random.Random, of: Any
) -> None:
    """A folder of classes with `each` shots of every thing, under names that say nothing but to `thing_of`."""
    for thing in things:
        for _ in range(each):
            path = folder / of[1][thing] / f"{rng.randrange(16**8):08x}-{thing}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            shot(of[0][thing], apart, rng).save(path, quality=85)


def things_of(images: ImageSet) -> Groups:
    assert images.paths is not None
    return Groups.of([Path(path).stem.split("-")[1] for path in images.paths], "thing")


def places_in(part: ImageSet, whole: ImageSet) -> Tensor:
    keys, every = part.keys(), whole.keys()
    place = {key: i for i, key in enumerate(every)}
    return torch.tensor([place[key] for key in keys])


def measured(seed: int, apart: Sequence[float], count: int, each: int, of: Any, network: Any) -> dict[str, Any]:
    """A set of bursts divided in three ways, and what each promises and gives."""
    rng = random.Random(seed)
    drawn = rng.sample(range(len(of[0])), 2 * count)
    with tempfile.TemporaryDirectory() as place:
        write_bursts(Path(place) / "bursts", drawn[:count], each, apart, rng, of)
        write_bursts(Path(place) / "new", drawn[count:], 1, apart, rng, of)
        bursts, new = (data.load(f"{place}/{name}", "train", SIDE) for name in ("bursts", "new"))
        labels = torch.tensor([bursts.class_names.index(new.class_names[c]) for c in new.labels.tolist()])
        head = find_head(network)
        seen, unseen = features(network, head, bursts, 64), features(network, head, new, 64)
        things = things_of(bursts)
        ways = {"by image": None, "--split_by near": group_by(bursts, "near"), "by thing": things}
        found = {}
        for way, groups in ways.items():
            train, val = split_validation(bursts, 0.2, seed, groups=groups)
            rows, held = places_in(train, bursts), places_in(val, bursts)
            probe = fit_probe(ProbeData(seen[rows][None], bursts.labels[rows], len(bursts.class_names)), strength=1e-2)
            alike = torch.zeros(len(val), dtype=torch.bool)
            alike[twins(val, train).places] = True
            own = {things.index[i].item() for i in rows}
            truly = torch.tensor([things.index[i].item() in own for i in held])
            right = _right(probe, seen[held], bursts.labels[held])
            found[way] = {
                "held_out": len(val),
                "promised": float(right.double().mean()),
                "true": float(_right(probe, unseen, labels).double().mean()),
                "shown_to_training": float(truly.double().mean()),
                "alarm_share": float(alike.double().mean()),
                "recall": float(alike[truly].double().mean()) if bool(truly.any()) else None,
                "precision": float(truly[alike].double().mean()) if bool(alike.any()) else None,
                "with_twin": float(right[alike].double().mean()) if bool(alike.any()) else None,
                "without_twin": float(right[~alike].double().mean()) if bool((~alike).any()) else None,
            }
    return found


def sets_as_they_are(out: Path) -> int:
    """How many images that `kedge train` would hold out have a near twin in training, of sets that were not made up."""
    rows = []
    for name in SETS:
        part = "train" if "train" in data.splits(name) else "test"
        images = data.load(name, part, 32 if name == "traffic_signs43_64" else None)
        images = images.subset(range(min(len(images), 5000)))
        train, val = split_validation(images, 0.1, 0)
        began = time.process_time()
        count = len(twins(val, train).places)
        rows.append({"set": name, "train": len(train), "held_out": len(val), "with_twin": count,
                     "cpu_seconds": time.process_time() - began})  # fmt: skip
        print(rows[-1], flush=True)
    record = {"name": "leaks", "command": command("leaks"), "created": now(), "machine": machine(), "rows": rows}
    write_text(out, json.dumps(record, indent=1) + "\n")
    return 0


def _right(probe: Any, seen: Tensor, labels: Tensor) -> Tensor:
    return (seen.double() @ probe.weight.double().T + probe.bias.double()).argmax(1) == labels


def main() -> int:
    made = argparse.ArgumentParser(prog="python -m benchmarks.leaks", description=__doc__,
                                   formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    made.add_argument("--seeds", type=int, default=5)
    made.add_argument("--things", type=int, default=150)
    made.add_argument("--shots", type=int, nargs="+", default=[2, 4])
    made.add_argument("--sets", action="store_true", help="only what the alarm says of sets as they are")
    made.add_argument("--weights", type=Path, help="the file with the weights of the network")
    made.add_argument("--out", type=Path)
    args = made.parse_args()
    args.out = args.out or RESULTS / f"leaks{'_sets' if args.sets else ''}.json"
    if args.sets:
        return sets_as_they_are(args.out)
    began, of, network = time.perf_counter(), photos("train"), load_timm(f"timm/{NETWORK}", str(args.weights))
    records = []
    for words, apart in BURSTS.items():
        for each in args.shots:
            runs = [measured(seed, apart, args.things, each, of, network) for seed in range(args.seeds)]
            for way in runs[0]:
                own = {key: [run[way][key] for run in runs] for key in runs[0][way]}
                mean = {k: statistics.fmean(v) if None not in v else None for k, v in own.items()}
                gaps = [p - t for p, t in zip(own["promised"], own["true"], strict=True)]
                spread = statistics.stdev(gaps) if len(gaps) > 1 else None
                told = {"burst": words, "shots": each, "split": way, "mean": mean}
                records.append({**told, "gap": statistics.fmean(gaps), "gap_sd": spread, "seeds": own})
                print(words, each, way, {k: None if v is None else round(v, 3) for k, v in mean.items()}, flush=True)
            record = {"name": "leaks", "command": command("leaks"), "created": now(), "machine": machine(),
                      "network": NETWORK, "side": SIDE, "things": args.things,
                      "seconds": time.perf_counter() - began, "rows": records}  # fmt: skip
            write_text(args.out, json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
