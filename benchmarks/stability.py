"""Both rates of stability of published networks, and of two controls whose rates are known.

    KEDGE_DATA=path/to/packs python -m benchmarks.stability

ResNet-20 and ResNet-56 of CIFAR-10 on 1,000 test images, EfficientNet-Lite0 on 200 photos of 200 ImageNet classes. The
controls answer always the same (0 and 100 %), and by a hash of the mean of all pixels, surely: nearly all flip, and one
answer in ten is kept, but for shuffled patches, which leave the mean as it was. Interval: bootstrap over images.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.published_networks import published
from kedge import data
from kedge.clock import now
from kedge.evaluation import evaluate
from kedge.evaluation.provenance import machine
from kedge.files import write_text

RESULTS = Path(__file__).parent / "results"


class Same(nn.Module):
    """The first class, surely."""

    def forward(self, images: Tensor) -> Tensor:
        return torch.tensor([9.0] + [0.0] * 9).expand(len(images), 10)


class Hashed(nn.Module):
    """A class by the last digits of the mean of all pixels, surely."""

    def forward(self, images: Tensor) -> Tensor:
        digits = (images.double().flatten(1).mean(1) * 1e7).round().long() % 10
        return 9 * nn.functional.one_hot(digits, 10).float()


def measured(models: dict[str, Any], images: Any) -> dict[str, Any]:
    """Model to its accuracy and its rates."""
    results = evaluate(models, images, shift=(), stability=True, examples=0, batch_size=100)
    return {
        name: {"accuracy": own["clean"]["accuracy"], "set": images.name, **own["stability"]}
        for name, own in results["models"].items()
    }


def main() -> None:
    """Measure and write benchmarks/results/stability.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=1000)
    args = parser.parse_args()
    started = time.perf_counter()
    few = data.load("cifar10", "test").subset(range(args.images))
    names = ("cifar10_resnet20", "cifar10_resnet56")
    rates = measured(
        {"always the same": Same(), "hash of the pixels": Hashed(), **{n: published(n) for n in names}}, few
    )
    photos = data.load("imagenet_sample256", "test", image_size=224, decode=False)
    photos = photos.subset(range(0, len(photos), 5000 // args.images))
    rates |= measured({"tf_efficientnet_lite0": published("tf_efficientnet_lite0")}, photos)
    record = {"created": now(), "machine": machine(), "seconds": time.perf_counter() - started, "models": rates}
    write_text(RESULTS / "stability.json", json.dumps(record, indent=1) + "\n")
    for name, own in rates.items():
        print(name, *(f"{key} {100 * own[key]['value']:.1f}" for key in ("accuracy", "oversensitive", "overstable")))
        for change in own["changes"]:
            rate, kept, sure = change["rate"]["value"], change["kept"]["value"], change["mean_confidence"]
            print(f"    {change['title']}: {100 * rate:.1f}, kept {100 * kept:.1f}, confidence {100 * sure:.0f}")


if __name__ == "__main__":
    main()
