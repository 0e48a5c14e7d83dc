"""What share of foreign images is answered with a label, and of own images refused, without and with `unknown`.

    KEDGE_DATA=path/to/packs python -m benchmarks.unknown --out work

`ants_bees256` and `trashnet160` at 96 pixels: a linear probe (`kedge adapt`) on the published EfficientNet-Lite0, whose
validation images the seed draws. `cifar10`: the published ResNet-20; the seed draws 1,000 test images that thresholds
are set on, which others are judged by. `digits` without 8 and 9: the network of `kedge train`, from random weights,
also with Fashion-MNIST as negatives, on which the network learns to be unsure. Foreign images are no part of any
choice. `regret` is how much higher the AUROC of the best of the scores would have been than that of the chosen one, and
`alone` what each score's rule alone would have done.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kedge
from benchmarks.published_networks import published
from kedge import metrics
from kedge.adaptation import adapt
from kedge.anchoring.outputs import Outputs
from kedge.anchoring.prototypes import PROTOTYPES, nearest
from kedge.clock import now
from kedge.confidence import log_odds
from kedge.data import ImageSet
from kedge.evaluation import sets
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.metrics import accuracy_interval
from kedge.rejection import answered
from kedge.training import fit
from kedge.training.calibration import predict_logits, reject_rule
from kedge.training.unknown_choice import choose_rule, outputs_on, prototypes_of
from kedge.training.unknown_rule import FAMILIAR, rule_on
from kedge.unknown import OF_LOGITS, foreign, score_of

RESULTS = Path(__file__).parent / "results"
FOREIGN = ("textures10_64", "scenes2_64", "traffic_signs43_64", "imagenet_sample256")
SIZE = 96
Trained = tuple[Any, ImageSet, ImageSet, ImageSet, dict[str, ImageSet]]  # model, train, validation, own, foreign


def limited(images: ImageSet, most: int) -> ImageSet:
    """So many of a set, drawn by a fixed seed."""
    return sets.limited(images, most, 0)[0]


def photos(name: str, seed: int, most: int) -> Trained:
    """A linear probe on published weights, and its images."""
    images = limited(kedge.data.load(name, "train", SIZE, 3), 800)
    train, val = kedge.data.split_validation(images, 0.2, seed)
    body = published("tf_efficientnet_lite0")
    body = kedge.plain(body.network, mean=(0.5,) * 3, std=(0.5,) * 3, example=(3, SIZE, SIZE)).eval()
    model = adapt(body, train, val, how="linear-probe", seed=seed, strength=0.1, data=name).model
    others = [each for each in (*FOREIGN, "ants_bees256", "trashnet160") if each != name]
    away = {each: limited(kedge.data.load(each, "test", SIZE, 3), most) for each in others}
    return model, train, val, limited(kedge.data.load(name, "test", SIZE, 3), 2 * most), away


def cifar10(seed: int, most: int) -> Trained:
    """A published ResNet-20; half of some test images are for thresholds."""
    model = published("cifar10_resnet20")
    train = limited(kedge.data.load("cifar10", "train"), 1000)
    test = limited(kedge.data.load("cifar10", "test"), 3000)
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(seed))
    val, own = test.subset(order[:1000]), test.subset(order[1000 : 1000 + 4 * most])
    model.class_names = list(train.class_names)
    model.reject = reject_rule(*predict_logits(model, val), coverage=0.95)
    choose_rule(model, train, val, FAMILIAR, seed=seed)
    others = ("cifar100", "mnist", "fashion_mnist", *FOREIGN[:3])
    return model, train, val, own, {each: limited(kedge.data.load(each, "test", 32, 3), 2 * most) for each in others}


def digits(seed: int, most: int, out: Path, negatives: str | None = None) -> Trained:
    """The network of a short run on the digits 0 to 7."""
    known = [str(i) for i in range(8)]
    name = f"digits-{seed}{'' if negatives is None else '-negatives'}"
    recipe = {"epochs": 6, "seed": seed, "runs": str(out), "name": name, "negatives": negatives, "references": 4}
    shutil.rmtree(out / name, ignore_errors=True)
    train = kedge.data.load("digits", "train").only_classes(known)
    train, val = kedge.data.split_validation(train, 0.15, seed)
    result = fit(recipe, sets=(train, val), progress=False, report=False)
    test = kedge.data.load("digits", "test")
    away = {"8 and 9": test.subset([i for i, label in enumerate(test.labels.tolist()) if label > 7])}
    away |= {each: limited(kedge.data.load(each, "test", 8, 1), 2 * most) for each in ("mnist", "fashion_mnist")}
    return result.model, train, val, test.only_classes(known), away


def said(model: Any, outputs: Outputs) -> dict[str, Tensor]:
    """Which images are unknown, which unsure by the reject rule, `[N]` bool each, whatever the other rule says."""
    logits = outputs.logits
    near = None if model.prototypes is None else nearest(outputs.features, model.prototypes)  # type: ignore[arg-type]
    unsure = ~answered(model.reject, logits.softmax(1).amax(1), log_odds(logits))
    return {"unknown": foreign(model.unknown, logits, near), "unsure": unsure}


def scores_of(outputs: Outputs, prototypes: Tensor) -> dict[str, Tensor]:
    """All scores that a rule may have, `[N]`."""
    scores = {name: score_of(name, outputs.logits) for name in OF_LOGITS}
    return {**scores, PROTOTYPES: nearest(outputs.features, prototypes)}  # type: ignore[arg-type]


def measured(trained: Trained) -> dict[str, Any]:
    """The shares of a trained model, on own images and on each foreign set."""
    model, train, val, own, away = trained
    model.eval()
    inside, within = outputs_on(model, own), outputs_on(model, val)
    some = outputs_on(model, limited(train, 1000), references=1)
    prototypes = prototypes_of(some.features, limited(train, 1000).labels)  # type: ignore[arg-type]
    rules = {name: rule_on(values, FAMILIAR, name) for name, values in scores_of(within, prototypes).items()}
    of_own = scores_of(inside, prototypes)

    def shares(outputs: Outputs) -> dict[str, Any]:
        flags = said(model, outputs)
        refused = flags["unknown"] | flags["unsure"]
        return {
            "images": len(outputs),
            "unsure alone": float(flags["unsure"].double().mean()),
            "unknown alone": float(flags["unknown"].double().mean()),
            "refused": float(refused.double().mean()),
            "alone": {
                name: float((values < rules[name]["threshold"]).double().mean())  # type: ignore[index]
                for name, values in scores_of(outputs, prototypes).items()
            },
        }

    right = inside.logits.argmax(1) == own.labels
    flags = said(model, inside)
    kept = ~(flags["unknown"] | flags["unsure"])
    outside = {}
    for name, images in away.items():
        outputs = outputs_on(model, images)
        areas = {n: float(metrics.auroc(of_own[n], v)) for n, v in scores_of(outputs, prototypes).items()}
        outside[name] = {**shares(outputs), "auroc": areas}
    means = {n: statistics.mean(each["auroc"][n] for each in outside.values()) for n in of_own}
    return {
        "score": model.unknown["score"],
        "expected": model.unknown["expected"],
        "validation images": model.unknown["images"],
        "chosen by": model.unknown["chosen"].get("auroc"),
        "accuracy": float(right.double().mean()),
        "accuracy of answered": float(right[kept].double().mean()),
        "own": shares(inside),
        "foreign": outside,
        "auroc": means,
        "regret": max(means.values()) - means[model.unknown["score"]],
    }


def summary(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each experiment: means over seeds, and the exact interval of as many images as one seed has."""
    lines = []
    for name in dict.fromkeys(row["experiment"] for row in rows):
        mine = [row for row in rows if row["experiment"] == name]

        def over(ask: Callable[[Mapping[str, Any]], float], images: int, mine: list[Any] = mine) -> dict[str, float]:
            values = [ask(row) for row in mine]
            mean = statistics.mean(values)
            low, high = accuracy_interval(round(mean * images), images)
            return {"mean": mean, "low": low, "high": high, "least": min(values), "most": max(values)}

        count = mine[0]["own"]["images"]
        away = sum(each["images"] for each in mine[0]["foreign"].values())

        def of_foreign(row: Mapping[str, Any], key: str) -> float:
            return statistics.mean(1 - each[key] for each in row["foreign"].values())

        lines.append(
            {
                "experiment": name,
                "seeds": len(mine),
                "scores chosen": [row["score"] for row in mine],
                "own refused, unsure alone": over(lambda row: row["own"]["unsure alone"], count),
                "own unknown": over(lambda row: row["own"]["unknown alone"], count),
                "own expected unknown": statistics.mean(1 - row["expected"] for row in mine),
                "own refused": over(lambda row: row["own"]["refused"], count),
                "foreign with a label, unsure alone": over(lambda row: of_foreign(row, "unsure alone"), away),
                "foreign with a label": over(lambda row: of_foreign(row, "refused"), away),
                "accuracy": statistics.mean(row["accuracy"] for row in mine),
                "accuracy of answered": statistics.mean(row["accuracy of answered"] for row in mine),
                "auroc": {n: statistics.mean(row["auroc"][n] for row in mine) for n in mine[0]["auroc"]},
                "regret": statistics.mean(row["regret"] for row in mine),
            }
        )
    return lines


def experiments(most: int, out: Path) -> Iterator[tuple[str, Callable[[int], Trained]]]:
    """The trained models by name."""
    yield "ants_bees256", lambda seed: photos("ants_bees256", seed, most)
    yield "digits", lambda seed: digits(seed, most, out)
    yield "digits, negatives", lambda seed: digits(seed, most, out, "fashion_mnist")
    yield "cifar10", lambda seed: cifar10(seed, most)
    yield "trashnet160", lambda seed: photos("trashnet160", seed, most)


def main() -> int:
    """Do what is missing, write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of finished rows and runs")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--images", type=int, default=150, help="of each foreign set of photos, at most")
    parser.add_argument("--result", type=Path, default=RESULTS / "unknown.json")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    kept = args.out / "rows.json"
    rows = json.loads(kept.read_text()) if kept.is_file() else []
    for seed in args.seeds:
        for name, make in experiments(args.images, args.out / "runs"):
            if any((row["experiment"], row["seed"]) == (name, seed) for row in rows):
                continue
            began = time.monotonic()
            row = {"experiment": name, "seed": seed, **measured(make(seed))}
            rows.append({**row, "seconds": round(time.monotonic() - began)})
            write_text(kept, json.dumps(rows, indent=1) + "\n")
            line = summary([row])[0]
            print(
                f"{name} {seed}: {row['score']}, own refused {line['own refused']['mean']:.1%}, foreign with a label "
                f"{line['foreign with a label, unsure alone']['mean']:.1%} -> "
                f"{line['foreign with a label']['mean']:.1%} ({rows[-1]['seconds']} s)",
                flush=True,
            )
    record = {
        "name": "unknown",
        "command": "python -m benchmarks.unknown",
        "created": now(),
        "machine": machine(),
        "settings": {"images": args.images, "size": SIZE, "familiar": FAMILIAR, "seeds": args.seeds},
        "summary": summary(rows),
        "rows": rows,
    }
    write_text(args.result, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
