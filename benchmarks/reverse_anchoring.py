"""Reverse anchoring against the other scores: which answers are wrong, and which images are of no class.

    KEDGE_DATA=path/to/packs python -m benchmarks.reverse_anchoring

Small networks on 400 digits of the classes 0 to 6, anchored (alpha 0) and with a quarter of the references masked (to
uniform and to the label), five seeds each. AUROC in percent, mean over seeds with Student's 95 % interval: of right
against wrong answers to test images, clean and with Gaussian noise of severity 3; of test images against the digits 7
to 9 (near), and against Fashion-MNIST at 8 px (far). Reverse anchoring asks about 64 labelled training images, or the
first 16 of them.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge import data, metrics
from kedge.claims._images import cut, packed
from kedge.clock import now
from kedge.data import ImageSet
from kedge.data.corruptions import corrupt
from kedge.evaluation.provenance import machine
from kedge.evaluation.sets import labelled_few
from kedge.experiments.comparing import mean_interval
from kedge.files import write_text
from kedge.scores import Outputs, ReverseAnchoring, outputs_of, usable, usual
from kedge.training import fit

RESULTS = Path(__file__).parent / "results"
BASE: dict[str, Any] = {
    "model": "kedge_resnet_small", "arguments": {"width": 8}, "anchored": True, "augment": "none", "batch_size": 32,
    "epochs": 20, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}}, "keep": "last", "device": "cpu", "workers": 0,
}  # fmt: skip
VARIANTS = {
    "anchored": {"alpha": 0.0},
    "masked, uniform": {"alpha": 0.25, "mask_target": "uniform"},
    "masked, label": {"alpha": 0.25, "mask_target": "label"},
}
KNOWN = [str(digit) for digit in range(7)]
MOST = 64  # labelled images


def trained(variant: str, seed: int, train: ImageSet, val: ImageSet) -> Any:
    """A trained model with ten references of its training images."""
    objective = [{"Anchored": VARIANTS[variant]}, "CrossEntropy"]
    with tempfile.TemporaryDirectory(prefix="kedge-reverse-") as folder:
        recipe = {**BASE, "objective": objective, "seed": seed, "runs": folder, "name": "model"}
        return fit(recipe, sets=(train, val), progress=False, report=False).model.eval()


def shown(images: ImageSet) -> Tensor:
    """All images in [0, 1]."""
    return torch.stack([images[i][0] for i in range(len(images))]).float() / 255


def measured(variant: str, seed: int) -> dict[str, dict[str, float]]:
    """Question to score to AUROC in percent; "accuracy" too."""
    digits = packed("digits", "train").only_classes(KNOWN)
    drawn = cut(digits, 500, seed)
    train, val = drawn.subset(range(400)), drawn.subset(range(400, 500))
    whole = packed("digits", "test")
    test, near = whole.only_classes(KNOWN), whole.only_classes(["7", "8", "9"])
    far = data.load("fashion_mnist", "test", image_size=8, channels=1).subset(range(500))
    model = trained(variant, seed, train, val)
    anchors, labels = labelled_few(train, MOST, seed)
    reverse = (anchors.float() / 255, labels)
    clean = shown(test)
    noisy = corrupt(clean, "gaussian_noise", 3, indices=torch.arange(len(clean)), seed=seed)
    outputs = {
        name: outputs_of(model, images, features=True, masked=True, reverse=reverse)
        for name, images in {"clean": clean, "noisy": noisy, "near": shown(near), "far": shown(far)}.items()
    }
    learnt = outputs_of(model, shown(train), features=True)
    scores = {s.name: s.fit(learnt, train.labels).score for s in usable(usual(), outputs["clean"])}
    for over in ("mean", "worst"):
        scores[f"reverse anchoring, {over}"] = ReverseAnchoring(over).score
        scores[f"reverse anchoring, {over}, 16"] = _of_few(ReverseAnchoring(over))
    right = {name: outputs[name].logits.argmax(1) == test.labels for name in ("clean", "noisy")}
    questions: dict[str, dict[str, float]] = {
        "accuracy": {name: 100 * float(own.double().mean()) for name, own in right.items()}
    }
    for name, own in right.items():
        questions[f"wrong, {name}"] = {
            title: 100 * float(metrics.auroc(score(outputs[name])[own], score(outputs[name])[~own]))
            for title, score in scores.items()
        }
    for name in ("near", "far"):
        questions[name] = {
            title: 100 * float(metrics.auroc(score(outputs["clean"]), score(outputs[name])))
            for title, score in scores.items()
        }
    return questions


def _of_few(score: ReverseAnchoring, count: int = 16) -> Any:
    return lambda outputs: score.score(Outputs(outputs.logits, reverse=outputs.reverse[:, :count]))


def main() -> None:
    """Measure and write benchmarks/results/reverse_anchoring.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    started, variants = time.perf_counter(), {}
    for variant in VARIANTS:
        seeds = [measured(variant, seed) for seed in range(args.seeds)]
        variants[variant] = {
            question: {
                title: {"mean": statistics.fmean(own), "interval": mean_interval(own), "seeds": own}
                for title in seeds[0][question]
                for own in [[seed[question][title] for seed in seeds]]
            }
            for question in seeds[0]
        }
        for question, scores in variants[variant].items():
            print(variant, question, {title: round(one["mean"], 1) for title, one in scores.items()}, flush=True)
    record = {"created": now(), "machine": machine(), "seconds": time.perf_counter() - started, "variants": variants}
    write_text(RESULTS / "reverse_anchoring.json", json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
