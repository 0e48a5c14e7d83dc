"""Speed of the corruptions: images per second, against the definition for one image, and against a network.

    python -m benchmarks.corruptions

The definitions are those of the tests: numpy, scipy, scikit-image and Pillow, one image at a time. Batch, definition
and network take turns, so that whatever else the machine does falls on all of them. The sweep of 19 corruptions x 5
severities over 10,000 images of 32 px, and the 95 x 10,000 forward passes of kedge_resnet18 that it feeds, are timed on
a sample (sizes in the record) and scaled. Needs the `dev` extra.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from sklearn.datasets import load_sample_images
from tests.data import cbar_definitions, corruption_definitions

import kedge.networks  # noqa: F401
from kedge.data.corruptions import CBAR, NAMES, SEVERITIES, corrupt, variant
from kedge.data.corruptions.cbar import CBAR_CORRUPTIONS
from kedge.data.corruptions.frost import _generated
from kedge.data.corruptions.table import CORRUPTIONS
from kedge.evaluation.provenance import machine, now
from kedge.files import write_text

RESULTS = Path(__file__).parent / "results"
LARGE = (
    "gaussian_noise", "shot_noise", "defocus_blur", "motion_blur", "zoom_blur", "snow", "elastic_transform",
    "jpeg_compression", "blue_noise_sample", "circular_motion_blur",
)  # fmt: skip
SIZE, SEVERITY = 10_000, 3


def crops(count: int, size: int) -> np.ndarray:
    """Pieces of two photographs, [N, size, size, 3] in [0, 1]."""
    photos, rng = load_sample_images().images, np.random.default_rng(0)
    places = [(i % 2, rng.integers(0, 427 - size), rng.integers(0, 640 - size)) for i in range(count)]
    return np.stack([photos[n][y : y + size, x : x + size] for n, y, x in places]) / 255


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def defined(name: str, images: np.ndarray, rng: np.random.Generator) -> None:
    entry = (CORRUPTIONS | CBAR_CORRUPTIONS)[name]
    level = getattr(entry, variant(*images.shape[1:3]))[SEVERITY - 1]
    function = getattr(corruption_definitions if name in NAMES else cbar_definitions, name)
    extra = {"textures": _generated().pictures} if name == "frost" else {}
    for image in images:
        np.clip(function(image, level, rng, **extra), 0, 1)


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def compare(names: tuple[str, ...], size: int, batch: int, single: int, rounds: int) -> dict[str, Any]:
    """Rate and ratio of each corruption at severity 3, over `rounds` rounds."""
    images, rng = crops(batch, size), np.random.default_rng(1)
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous()
    found: dict[str, Any] = {n: {"images_per_second": [], "definition_images_per_second": []} for n in names}
    for name in names:  # tables and textures are made once
        corrupt(tensor[:1], name, SEVERITY)
        defined(name, images[:1], rng)
    for _ in range(rounds):
        for name in names:
            ours = batch / seconds(lambda n=name: corrupt(tensor, n, SEVERITY))
            theirs = single / seconds(lambda n=name: defined(n, images[:single], rng))
            found[name]["images_per_second"].append(ours)
            found[name]["definition_images_per_second"].append(theirs)
    for row in found.values():
        pairs = zip(row["images_per_second"], row["definition_images_per_second"], strict=True)
        row["ratio"] = spread([a / b for a, b in pairs])
        row.update({key: spread(row[key]) for key in ("images_per_second", "definition_images_per_second")})
    return found


def sweep(sample: int, forward: int) -> dict[str, Any]:
    """The 95 conditions and as many forward passes, a corruption and a pass in turn."""
    tensor = torch.from_numpy(crops(sample, 32)).permute(0, 3, 1, 2).float().contiguous()
    network = timm.create_model("kedge_resnet18", num_classes=10).eval()
    corrupting, passing = [], []
    with torch.inference_mode():
        network(tensor[:forward])
        for name in NAMES:
            for severity in SEVERITIES:
                corrupting.append(seconds(lambda n=name, s=severity: corrupt(tensor, n, s)) / sample)
                passing.append(seconds(lambda: network(tensor[:forward])) / forward)
    both = {
        "corruptions_seconds": sum(corrupting) * SIZE,
        "forward_seconds": sum(passing) * SIZE,
        "corruptions_per_forward": sum(corrupting) / sum(passing),
    }
    how = (
        f"{sample} images through each of the 95 conditions, {forward} through the network 95 times; x {SIZE} / sample"
    )
    return {"images": SIZE, "scaled_from": how, "network": "kedge_resnet18, 32 px, float32", **both}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sample", type=int, default=256, help="images of the sweep that are timed")
    parser.add_argument("--forward", type=int, default=32, help="images in each forward pass that is timed")
    parser.add_argument("--out", type=Path, default=RESULTS / "corruptions.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    load = os.getloadavg()
    record = {
        "command": " ".join(["python -m benchmarks.corruptions", *sys.argv[1:]]),
        "created": now(),
        "machine": machine(),
        "versions": {p: version(p) for p in ("numpy", "scipy", "scikit-image", "pillow")},
        "load_average": {"before": load},
        "note": "shared machine: the load averages say how busy it was; ratios are of neighbouring measurements",
        "severity": SEVERITY,
        "rounds": args.rounds,
        "32 px": compare((*NAMES, *CBAR), 32, 256, 4, args.rounds),
        "224 px": compare(LARGE, 224, 4, 1, min(args.rounds, 3)),
        "sweep": sweep(args.sample, args.forward),
    }
    record["load_average"]["after"] = os.getloadavg()
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(record, indent=1) + "\n")
    for size in ("32 px", "224 px"):
        for name, row in record[size].items():
            rate, ratio = row["images_per_second"], row["ratio"]
            print(f"{size} {name}: {rate['median']:.0f} images/s ({rate['low']:.0f}-{rate['high']:.0f}), ", end="")
            print(f"{ratio['median']:.1f} x the definition ({ratio['low']:.1f}-{ratio['high']:.1f})")
    total = record["sweep"]
    print(f"sweep {total['corruptions_seconds']:.0f} s, its forward passes {total['forward_seconds']:.0f} s")


if __name__ == "__main__":
    main()
