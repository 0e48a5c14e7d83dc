"""Can a probe on a pre-trained backbone notice classes that the backbone saw, but the probe does not know?

    KEDGE_DATA=path/to/packs python -m benchmarks.seen_in_pretraining

Published backbones, trained with labels, under a linear probe (logistic regression on frozen features), three draws of
classes and images each. "half": ResNet-20 and ResNet-56 of CIFAR-10 under a probe on five of its classes; the other
five were seen in pre-training. "new": ResNet-20 under a probe on ten classes of CIFAR-100; all of CIFAR-10 was seen.
"photos": EfficientNet-Lite0 of ImageNet under a probe on TrashNet; ImageNet photos were seen. Not seen: textures.
Control: further images of the probe's own classes, which nothing should tell. AUROC and held-out linear separability
in percent, mean over draws with Student's 95 % interval.
"""

import argparse
import copy
import json
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

import kedge
from benchmarks.published_networks import SETTINGS, published
from kedge import data
from kedge.claims._images import cut
from kedge.clock import now
from kedge.data import ImageSet
from kedge.evaluation import evaluate
from kedge.evaluation.provenance import machine
from kedge.experiments.comparing import mean_interval
from kedge.files import write_text
from kedge.scores import KNN, MSP, Energy, outputs_of

RESULTS = Path(__file__).parent / "results"
LAST = {"cifar10_resnet20": "linear", "cifar10_resnet56": "linear", "tf_efficientnet_lite0": "classifier"}
CASES = (
    ("half", "cifar10_resnet20"), ("half", "cifar10_resnet56"), ("new", "cifar10_resnet20"),
    ("photos", "tf_efficientnet_lite0"),
)  # fmt: skip
IMAGES = {"half": (400, 150), "new": (400, 150), "photos": (120, 60)}  # to learn from, and of each other set


def probed(name: str, train: ImageSet) -> Any:
    """A published backbone under a linear probe on training images."""
    from sklearn.linear_model import LogisticRegression

    backbone = published(name)
    parts = [outputs_of(backbone, x / 255, features=True).features for x, _ in train.batches(50)]
    features = torch.cat([part for part in parts if part is not None]).double()
    mean, std = features.mean(0), features.std(0).clamp(min=1e-6)
    fitted = LogisticRegression(max_iter=500).fit(((features - mean) / std).numpy(), train.labels.numpy())
    head = nn.Linear(features.shape[1], len(train.class_names))
    weight = torch.from_numpy(fitted.coef_) / std
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(torch.from_numpy(fitted.intercept_) - weight @ mean)
    network = copy.deepcopy(backbone.network)
    setattr(network, LAST[name], head)
    return kedge.plain(network.eval(), **SETTINGS[name])


@cache
def loaded(name: str, split: str, side: int) -> ImageSet:
    """A set at so many pixels; photos are decoded when their turn comes."""
    return data.load(name, split, image_size=side, channels=3, decode=side <= 32)


def images(case: str, seed: int) -> tuple[ImageSet, ImageSet, dict[str, ImageSet]]:
    """(images to learn from, to test on, other sets by name)."""
    few, many = IMAGES[case][1], IMAGES[case][0]
    order = torch.randperm(100, generator=torch.Generator().manual_seed(seed)).tolist()
    if case == "photos":
        side = 224
        train, test = (loaded("trashnet160", split, side) for split in ("train", "test"))
        train, test = cut(train, many, seed), cut(test, 2 * few, seed)
        seen = cut(loaded("imagenet_sample256", "test", side), few, seed)
    else:
        side = 32
        small = loaded("cifar10", "test", side)
        if case == "half":
            names = [small.class_names[c] for c in order if c < 10]
            known, seen = small.only_classes(names[:5]), cut(small.only_classes(names[5:]), few, seed)
        else:
            hundred = loaded("cifar100", "test", side)
            known, seen = hundred.only_classes([hundred.class_names[c] for c in order[:10]]), cut(small, few, seed)
        drawn = cut(known, len(known), seed)
        train, test = drawn.subset(range(many)), drawn.subset(range(many, min(len(drawn), many + 2 * few)))
    other = cut(loaded("textures10_64", "test", side), few, seed)
    half = len(test) // 2
    own = test.subset(range(half, len(test)))
    return train, test.subset(range(half)), {"seen": seen, "not seen": other, "own classes": own}


def measured(case: str, name: str, seed: int) -> dict[str, float]:
    """Accuracy of the probe; AUROC of three scores and separability of each set, in percent."""
    train, test, sets = images(case, seed)
    results = evaluate(
        probed(name, train), test, shift=(), ood=sets, seen=["seen"], scores=[MSP(), Energy(), KNN(5)], train=train,
        resamples=0, examples=0, batch_size=50,
    )  # fmt: skip
    own = results["models"]["model"]
    numbers = {"accuracy": own["clean"]["accuracy"]["value"]}
    for each in sets:
        numbers[f"{each}, separability"] = own["ood"][each]["separability"]["value"]
        for score, values in own["ood"][each]["scores"].items():
            numbers[f"{each}, {score}"] = values["auroc"]["value"]
    return {key: 100 * value for key, value in numbers.items()}


def main() -> None:
    """Measure and write benchmarks/results/seen_in_pretraining.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    args = parser.parse_args()
    started, cases = time.perf_counter(), {}
    for case, name in CASES:
        draws = [measured(case, name, seed) for seed in range(args.draws)]
        cases[f"{case}, {name}"] = {
            key: {"mean": statistics.fmean(own), "interval": mean_interval(own), "draws": own}
            for key in draws[0]
            for own in [[draw[key] for draw in draws]]
        }
        print(case, name, {k: round(v["mean"], 1) for k, v in cases[f"{case}, {name}"].items()}, flush=True)
    record = {"created": now(), "machine": machine(), "seconds": time.perf_counter() - started, "cases": cases}
    write_text(RESULTS / "seen_in_pretraining.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
