"""Adapting at test time on corrupted CIFAR-10, with and without the brake: who gains, and who loses.

    KEDGE_DATA=path/to/packs python -m benchmarks.test_time --weights cifar10_resnet20.safetensors

The published ResNet-20 answers streams of test images and of textures, which it does not know, corrupted alike. Streams
come mixed or sorted by class, in an order drawn by the seed, and methods answer each from a reset model. Of the last
pass: accuracy of the known images, and AUROC by which the confidence tells known from unknown ones. The brake rests on
other test images than those of the streams.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import load_file
from torch import Tensor

import kedge
import kedge.networks
from kedge import data, metrics
from kedge.confidence import log_odds
from kedge.data.corruptions import corrupt
from kedge.evaluation.provenance import machine, now
from kedge.files import write_text
from kedge.seeds import generator
from kedge.test_time import Adapting, Brake

RESULTS = Path(__file__).parent / "results"
CONDITIONS = (("clean", 0), ("gaussian_noise", 3), ("gaussian_noise", 5))
ORDERS = ("mixed", "sorted")
KEPT, KNOWN, UNKNOWN, BATCH = 200, 200, 100, 50
# title: (method, passes, brake); None: the model as it is
METHODS: dict[str, tuple[Any, int, bool]] = {
    "as it is": (None, 1, False),
    "batch statistics": ("batch_statistics", 1, False),
    "batch statistics, brake": ("batch_statistics", 1, True),
    "TENT": ({"tent": {"lr": 0.01}}, 2, False),
    "TENT, brake": ({"tent": {"lr": 0.01}}, 2, True),
    "crowds": ({"wisdom_of_crowds": {"lr": 0.01}}, 2, False),
    "crowds, brake": ({"wisdom_of_crowds": {"lr": 0.01}}, 2, True),
}


class Images:
    """Images of a seed: kept ones, and a stream of known and unknown ones, long labels, -1 for unknown."""

    def __init__(self, known: Any, unknown: Any, seed: int) -> None:
        draws = generator(seed, "test time")
        places = torch.randperm(len(known), generator=draws)[: KEPT + KNOWN]
        others = torch.randperm(len(unknown), generator=draws)[:UNKNOWN]
        pixels, labels = _pixels(known, places), known.labels[places]
        self.kept, self.kept_labels = pixels[:KEPT], labels[:KEPT]
        self.images = torch.cat([pixels[KEPT:], _pixels(unknown, others)]).float() / 255
        self.labels = torch.cat([labels[KEPT:], torch.full((UNKNOWN,), -1)])
        self.mixed = torch.randperm(len(self.labels), generator=draws)

    def stream(self, name: str, severity: int, order: str, seed: int) -> tuple[Tensor, Tensor]:
        """Corrupted images in an order, and their labels; sorted ones end with the unknown."""
        images, places = self.images, torch.arange(len(self.images))
        if name != "clean":
            parts = zip(images.split(100), places.split(100), strict=True)
            images = torch.cat([corrupt(part, name, severity, place, seed) for part, place in parts])
        last = torch.where(self.labels < 0, 10, self.labels)[self.mixed]
        chosen = self.mixed if order == "mixed" else self.mixed[last.argsort(stable=True)]
        return images[chosen], self.labels[chosen]


def _pixels(images: Any, places: Tensor) -> Tensor:
    return torch.cat([part for part, _ in images.subset(places).batches(500)])


def measured(model: Any, images: Images, stream: tuple[Tensor, Tensor], title: str) -> dict[str, Any]:
    """Accuracy and AUROC of the last pass, in percent; what the brake did, and microseconds an image."""
    method, passes, braked = METHODS[title]
    pixels, labels = stream
    brake = Brake(images.kept, images.kept_labels) if braked else None
    asked = model if method is None else Adapting(model, method, brake)
    started = time.perf_counter()
    for _ in range(passes):
        logits = torch.cat([asked.answers(part)[0] for part in pixels.split(BATCH)])
    seconds = time.perf_counter() - started
    known, odds = labels >= 0, log_odds(logits)
    record = None if method is None else asked.record
    return {
        "accuracy": 100 * float((logits.argmax(1) == labels)[known].double().mean()),
        "auroc": 100 * float(metrics.auroc(odds[known], odds[~known])),
        "ms_an_image": 1000 * seconds / passes / len(labels),
        "held": None if record is None else record.words(),
        "steps": None if record is None else record.steps,
        "as_before": None if record is None else record.as_before / record.images,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Accuracy / AUROC, mean over seeds, of each method under each condition."""
    lines = []
    for order in ORDERS:
        heads = [f"{name} {severity}" if severity else name for name, severity in CONDITIONS]
        lines += ["", f"{order:<24}" + "".join(f"{head:>20}" for head in heads)]
        for title in METHODS:
            cells = []
            for condition in CONDITIONS:
                own = [r for r in rows if (r["order"], r["method"], *r["condition"]) == (order, title, *condition)]
                means = [statistics.fmean(r[key] for r in own) for key in ("accuracy", "auroc")] if own else None
                cells.append("" if means is None else f"{means[0]:.1f} / {means[1]:.1f}")
            lines.append(f"{title:<24}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the table and write results/test_time.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="cifar10_resnet20.safetensors")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "test_time.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    network = timm.create_model("kedge_resnet20")
    network.load_state_dict(load_file(args.weights))
    model = kedge.plain(network.eval())
    known, unknown = data.load("cifar10", "test"), data.load("textures10_64", "test", 32)
    rows = []
    for seed in range(args.seeds):
        images = Images(known, unknown, seed)
        for name, severity in CONDITIONS:
            for order in ORDERS:
                stream = images.stream(name, severity, order, seed)
                for title in METHODS:
                    own = measured(model, images, stream, title)
                    rows.append({"seed": seed, "condition": [name, severity], "order": order, "method": title, **own})
                print(f"seed {seed}: {name} {severity}, {order}", file=sys.stderr, flush=True)
        settings = {"kept": KEPT, "known": KNOWN, "unknown": UNKNOWN, "batch": BATCH, "seeds": seed + 1}
        results = {"created": now(), "machine": machine(), "settings": settings, "rows": rows}
        write_text(args.out, json.dumps(results, indent=1) + "\n")
    print(table(rows))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
