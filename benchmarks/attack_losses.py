"""Which loss a PGD of 20 steps should climb: cross-entropy or the margin, on models of many kinds; a few minutes.

    OMP_NUM_THREADS=1 python -m benchmarks.attack_losses

Small convolutional networks on scikit-learn's digits, trained by PGD, by TRADES, with smoothed labels, plainly, and a
linear model, of which the exact accuracy is known: in "linf" an image whose pixels may move freely stays right if and
only if every other class stays below by more than eps times the sum of the differences of their weights. On a linear
model the box [0, 1] is left away. Every attack is PGD-20 from the same random start, on the 359 test images.
"""

import argparse
import json
import statistics
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import kedge.data
from kedge.attacks import PGD
from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.objectives import TRADES, Adversarial, CrossEntropy, Objective

RESULTS = Path(__file__).parent / "results"
EPS, NEAR = 0.15, 0.05  # for models trained on attacked images, and for the others
COLUMNS = ("clean", "cross-entropy", "margin", "worst of both", "exact")


class Smoothed(Objective):
    """Cross-entropy with smoothed labels."""

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss."""
        return F.cross_entropy(model(images), targets, label_smoothing=0.5)


def kinds() -> dict[str, tuple[Objective, float, int]]:
    """Name to objective, the eps to judge at, and epochs."""
    attack = PGD(EPS, steps=5)
    return {
        "PGD-5 training": (Adversarial(CrossEntropy(), attack), EPS, 12),
        "TRADES, β 6": (TRADES(CrossEntropy(), attack), EPS, 12),
        "PGD-5 training, labels smoothed by 0.5": (Adversarial(Smoothed(), attack), EPS, 12),
        "labels smoothed by 0.5": (Smoothed(), NEAR, 20),
        "plain": (CrossEntropy(), NEAR, 20),
        "linear": (CrossEntropy(), NEAR, 20),
    }


def network(name: str) -> nn.Sequential:
    """A small network for images of 8 px."""
    if name == "linear":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.ReLU(), nn.Conv2d(24, 48, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


def trained(name: str, seed: int, images: Tensor, labels: Tensor) -> nn.Module:
    """A model of the kind `name`."""
    objective, _, epochs = kinds()[name]
    torch.manual_seed(seed)
    model = network(name)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for some in torch.randperm(len(images)).split(64):
            optimizer.zero_grad()
            objective(model, images[some], labels[some]).backward()
            optimizer.step()
    return model.eval()


def exact(model: nn.Module, images: Tensor, labels: Tensor, eps: float) -> Tensor:
    """Which images a linear model gets right at every point within eps, `[N]`."""
    weight = next(m for m in model.modules() if isinstance(m, nn.Linear)).weight.double()
    logits = model(images).double()
    reach = eps * (weight[labels][:, None] - weight).abs().sum(2)
    least = logits.gather(1, labels[:, None]) - logits - reach
    return (least.scatter(1, labels[:, None], 1) > 0).all(1)


def judge(name: str, model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy in percent, clean and as each attack leaves it."""
    eps = kinds()[name][1]
    with torch.no_grad():
        right = {"clean": model(images).argmax(1) == labels}
    if name == "linear":  # an affine map that leaves the box room: the same model of images within [0.25, 0.75]
        images, eps, flat = 0.25 + images / 2, eps / 2, model
        model = nn.Sequential(Stretched(), flat)
    for column, loss in (("cross-entropy", "ce"), ("margin", "margin")):
        adversarial = PGD(eps, 20, loss=loss, early_stop=True)(model, images, labels)
        with torch.no_grad():
            right[column] = right["clean"] & (model(adversarial).argmax(1) == labels)
    right["worst of both"] = right["cross-entropy"] & right["margin"]
    if name == "linear":
        with torch.no_grad():
            right["exact"] = exact(flat, 2 * (images - 0.25), labels, 2 * eps)
    return {column: 100 * float(found.float().mean()) for column, found in right.items()}


class Stretched(nn.Module):
    """[0.25, 0.75] to [0, 1]."""

    def forward(self, images: Tensor) -> Tensor:
        """The images."""
        return 2 * (images - 0.25)


def table(rows: dict[str, list[dict[str, float]]]) -> str:
    """Mean ± standard deviation over seeds."""
    lines = ["| % | " + " | ".join(COLUMNS) + " |", "| --- |" + " ---: |" * len(COLUMNS)]
    for name, runs in rows.items():
        cells = []
        for column in COLUMNS:
            values = [run[column] for run in runs if column in run]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Train, attack, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.attack_losses", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=RESULTS / "attack_losses.json")
    args = parser.parse_args(arguments)
    sets: dict[str, Any] = {part: kedge.data.load("digits", part) for part in ("train", "test")}
    pixels = {part: found.images.float() / 255 for part, found in sets.items()}
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in kinds()}
    for name, runs in rows.items():
        for seed in args.seeds:
            model = trained(name, seed, pixels["train"], sets["train"].labels)
            runs.append(judge(name, model, pixels["test"], sets["test"].labels))
            print(name, seed, runs[-1], file=sys.stderr, flush=True)
    print(table(rows))
    settings = {"eps": EPS, "eps of models not trained on attacked images": NEAR, "seeds": args.seeds, "steps": 20}
    result = {"name": "attack_losses", "created": now(), "machine": machine(), "settings": settings, "rows": rows}
    write_text(args.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
