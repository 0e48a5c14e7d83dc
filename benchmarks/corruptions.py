"""Speed of the corruptions: images per second, against the definition for one image, and against a network.

    python -m benchmarks.corruptions

The definitions are those of the tests: numpy, scipy, scikit-image and Pillow, one image at a time. Batch and definition
take turns within a round, condition by condition; both in a process that keeps freed memory, as `kedge evaluate` does.
Rates are of what was timed, the sweep's are scaled from that to 10,000 images. Needs the `dev` extra.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import timm
import torch
from sklearn.datasets import load_sample_images
from tests.data import cbar_definitions, corruption_definitions
from torch import Tensor

import kedge.networks  # noqa: F401
from benchmarks.side_by_side import Times, exponent, finish, options, parser, ratio, row, seconds, spread, table
from kedge.data.corruptions import CBAR, NAMES, SEVERITIES, corrupt, corruption, variant
from kedge.data.corruptions.frost import _generated

SIZE, SEVERITY = 10_000, 3
# side in pixels: images in a batch
BATCHES = {32: 256, 224: 8}


def crops(count: int, size: int) -> np.ndarray:
    """Pieces of two photographs, [N, size, size, 3] in [0, 1]."""
    photos, rng = load_sample_images().images, np.random.default_rng(0)
    places = [(i % 2, rng.integers(0, 427 - size), rng.integers(0, 640 - size)) for i in range(count)]
    return np.stack([photos[n][y : y + size, x : x + size] for n, y, x in places]) / 255


def defined(name: str, images: np.ndarray, severity: int, rng: np.random.Generator) -> None:
    """Each of `images` by the definition."""
    entry = corruption(name)
    level = getattr(entry, variant(*images.shape[1:3]))[severity - 1]
    function = getattr(corruption_definitions if name in NAMES else cbar_definitions, name)
    extra = {"textures": _generated().pictures} if name == "frost" else {}
    for image in images:
        np.clip(function(image, level, rng, **extra), 0, 1)


def conditions(
    names: Sequence[str], severities: Sequence[int], size: int, rounds: int, args: argparse.Namespace
) -> dict[tuple[str, int], Times]:
    """Seconds for an image of each condition, of "batch" and of "definition", in each round."""
    batch = BATCHES[size] // (8 if args.quick else 1)
    images, rng, draw = crops(batch, size), np.random.default_rng(1), random.Random(0)
    shown = torch.from_numpy(images).permute(0, 3, 1, 2).float().contiguous().to(args.device)
    for name in names:  # tables and textures are made once
        corrupt(shown, name, SEVERITY)
        defined(name, images[:1], SEVERITY, rng)
    found: dict[tuple[str, int], Times] = {}
    order = [(name, severity) for name in names for severity in severities]
    for number in range(rounds):
        draw.shuffle(order)
        for name, severity in order:
            one = images[[number % batch]]
            calls: dict[str, tuple[Callable[[], Any], int]] = {
                "batch": (lambda n=name, s=severity: corrupt(shown, n, s), batch),
                "definition": (lambda n=name, s=severity, i=one: defined(n, i, s, rng), 1),
            }
            times = found.setdefault((name, severity), {"batch": [], "definition": []})
            for kind in draw.sample(list(calls), 2):
                call, count = calls[kind]
                times[kind].append(seconds(call, args.device) / count)
    return found


def added(found: dict[tuple[str, int], Times], names: Sequence[str]) -> Times:
    """The seconds of these corruptions, round by round, one image through every condition."""
    chosen = [times for (name, _), times in found.items() if name in names]
    return {kind: [sum(each) for each in zip(*(t[kind] for t in chosen), strict=True)] for kind in chosen[0]}


def rates(found: dict[tuple[str, int], Times], size: int) -> dict[str, Any]:
    """The table of single corruptions: images a second, and how many times that of the definition."""
    lines = []
    for (name, _), times in found.items():
        faster, rate = ratio(times, "definition", "batch"), spread([1 / t for t in times["batch"]])
        lines.append([name, round(rate["median"]), faster["median"], faster["low"], faster["high"]])
    head = ["corruption", "images/s", "times the definition", "quartile", "quartile"]
    return table(f"Images a second, {size} px, severity {SEVERITY}", head, sorted(lines))


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """How the time of the nineteen at severity 3 grows with the number of images and of pixels; with conditions."""

    def taken(count: int, size: int, names: Sequence[str] = NAMES) -> float:
        shown = torch.from_numpy(crops(count, size)).permute(0, 3, 1, 2).float().contiguous().to(args.device)

        def all_names() -> None:
            for name in names:
                corrupt(shown, name, SEVERITY)

        all_names()
        return min(seconds(all_names, args.device) for _ in range(2))

    images, sides = ([8, 32], [24, 48]) if args.quick else ([64, 256, 1024], [96, 160, 224])
    parts = [5, 10, 19]
    found = {
        f"images in a batch (32 px): {images}": exponent(images, [taken(n, 32) for n in images]),
        f"pixels of an image (sides {sides})": exponent([s * s for s in sides], [taken(4, s) for s in sides]),
        f"conditions ({parts} times the same one)": exponent(
            parts, [taken(images[0], 32, NAMES[:1] * n) for n in parts]
        ),
    }
    return table("Growth of the time, as an exponent (1: linear)", ["with", "exponent"], list(found.items()))


def beside_a_network(shown: Tensor, severities: Sequence[int], rounds: int, device: torch.device) -> dict[str, float]:
    """All conditions of these images, as a share of as many forward passes of kedge_resnet18."""
    network = timm.create_model("kedge_resnet18", num_classes=10).eval().to(device)
    times: Times = {"corruptions": [], "passes": []}
    every = [(name, severity) for name in NAMES for severity in severities]
    with torch.inference_mode():
        network(shown)
        for _ in range(rounds):
            corrupting = passing = 0.0
            for name, severity in every:
                corrupting += seconds(lambda n=name, s=severity: corrupt(shown, n, s), device)
                passing += seconds(lambda: network(shown), device)
            times["corruptions"].append(corrupting)
            times["passes"].append(passing)
    return ratio(times, "corruptions", "passes")


def main(arguments: Sequence[str] | None = None) -> int:
    """Time every corruption, the sweep and the network, print the tables, write the JSON."""
    args = options(parser("corruptions", __doc__, rounds=5, quick=1), arguments)
    severities = [SEVERITY] if args.quick else list(SEVERITIES)
    small = conditions(NAMES, severities, 32, args.rounds, args)
    at_three = {key: times for key, times in small.items() if key[1] == SEVERITY}
    others = conditions(CBAR, [SEVERITY], 32, args.rounds, args)
    sweep = added(small, NAMES)
    rows = [
        row(
            f"corruption sweep (19 corruptions × {len(severities)} severities), 32 px, images/s",
            "per-image numpy definitions",
            ratio(sweep, "definition", "batch"),
            10,
            least=True,
        )
    ]
    tables = [rates(at_three | others, 32)]
    lines = [["19 corruptions", 32, len(small), SIZE * spread(sweep["batch"])["median"]]]
    if not args.quick:
        large = conditions([*NAMES, *CBAR], [SEVERITY], 224, min(args.rounds, 3), args)
        whole = added(large, NAMES)
        share = ratio(whole, "definition", "batch")
        rows.append(row("19 corruptions at severity 3, 224 px, images/s", "per-image numpy definitions", share))
        tables.append(rates(large, 224))
        lines.append(["19 corruptions at severity 3", 224, len(NAMES), SIZE * spread(whole["batch"])["median"]])
    count = 4 if args.quick else 32
    shown = torch.from_numpy(crops(count, 32)).permute(0, 3, 1, 2).float().contiguous().to(args.device)
    share = beside_a_network(shown, severities, min(args.rounds, 3), args.device)
    rows.append(row(f"the sweep's corruptions, 32 px, {count} images at a time", "forward passes of ResNet-18", share))
    head = ["sweep", "px", "conditions", f"seconds for {SIZE:,} images"]
    return finish(args, rows, [*tables, table("The whole sweep", head, lines), growth(args)])


if __name__ == "__main__":
    sys.exit(main())
