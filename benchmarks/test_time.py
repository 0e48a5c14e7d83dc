"""Adapting at test time on corrupted CIFAR-10, with and without the brake: who gains, and who loses.

    KEDGE_DATA=path/to/packs python -m benchmarks.test_time --weights cifar10_resnet20.safetensors

The published ResNet-20 answers streams of test images and of textures, which it does not know, corrupted alike. Streams
come mixed or sorted by class, in an order drawn by the seed, and methods answer each from a reset model. Of the last
pass: accuracy of the known images, and AUROC by which the confidence tells known from unknown ones. The brake rests on
other test images than those of the streams. Called again, it measures what its result lacks.
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
from benchmarks.side_by_side import finish, write
from kedge import data, metrics
from kedge.confidence import log_odds
from kedge.data.corruptions import corrupt
from kedge.seeds import generator
from kedge.test_time import Adapting, Brake

RESULTS = Path(__file__).parent / "results"
CONDITIONS = (
    ("clean", 0), ("gaussian_noise", 3), ("gaussian_noise", 5), ("defocus_blur", 3), ("defocus_blur", 5), ("fog", 3),
    ("fog", 5), ("jpeg_compression", 3), ("jpeg_compression", 5),
)  # fmt: skip
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


def tables(streams: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Accuracy with its standard deviation over seeds and AUROC, for mixed and for sorted images."""
    listed = []
    for order in ORDERS:
        heads = [
            "way",
            *(f"{name} {severity}".replace("_", " ") if severity else name for name, severity in CONDITIONS),
        ]
        rows = [[title, *(_cell(streams, order, title, condition) for condition in CONDITIONS)] for title in METHODS]
        seeds = len({each["seed"] for each in streams if each["order"] == order})
        note = f"Accuracy of the known images (± standard deviation over {seeds} orders) / AUROC, in %."
        listed.append({"title": f"Images {order}", "head": heads, "rows": rows, "note": note})
    return listed


def _cell(streams: Sequence[dict[str, Any]], order: str, title: str, condition: tuple[str, int]) -> str:
    own = [r for r in streams if (r["order"], r["method"], *r["condition"]) == (order, title, *condition)]
    if not own:
        return ""
    accuracies = [r["accuracy"] for r in own]
    spread = f" ± {statistics.stdev(accuracies):.1f}" if len(own) > 1 else ""
    return f"{statistics.fmean(accuracies):.1f}{spread} / {statistics.fmean(r['auroc'] for r in own):.1f}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the result lacks, and write it after each stream, with its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", required=True, help="cifar10_resnet20.safetensors")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS / "test_time.json")
    args = parser.parse_args(arguments, argparse.Namespace(name="test_time", device="cpu", rounds=1))
    torch.set_num_threads(1)
    settings = {"kept": KEPT, "known": KNOWN, "unknown": UNKNOWN, "batch": BATCH}
    before = json.loads(args.out.read_text(encoding="utf-8")) if args.out.is_file() else {}
    same = all(before.get("settings", {}).get(key) == value for key, value in settings.items())
    streams = list(before.get("streams", ())) if same else []
    done = {(each["seed"], *each["condition"], each["order"]) for each in streams}
    model, known, unknown = _model(args.weights), data.load("cifar10", "test"), data.load("textures10_64", "test", 32)
    drawn = {seed: Images(known, unknown, seed) for seed in range(args.seeds)}
    for name, severity in sorted(CONDITIONS, key=lambda each: -each[1]):  # the strongest tell most
        for seed, images in drawn.items():
            for order in ORDERS:
                if (seed, name, severity, order) in done:
                    continue
                stream = images.stream(name, severity, order, seed)
                about = {"seed": seed, "condition": [name, severity], "order": order}
                streams += [{**about, "method": title, **measured(model, images, stream, title)} for title in METHODS]
                write(args, (), tables(streams), settings=settings, streams=streams)
                print(f"seed {seed}: {name} {severity}, {order}", file=sys.stderr, flush=True)
    return finish(args, (), tables(streams), settings=settings, streams=streams)


def _model(weights: str) -> Any:
    network = timm.create_model("kedge_resnet20")
    network.load_state_dict(load_file(weights))
    return kedge.plain(network.eval())


if __name__ == "__main__":
    raise SystemExit(main())
