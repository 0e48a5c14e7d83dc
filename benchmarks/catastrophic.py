"""Catastrophic overfitting: training with one-step attacks at ε = 16/255, with and without AAER.

    KEDGE_DATA=path/to/packs python -m benchmarks.catastrophic

A small residual network is trained on the images of FGSM with a random start (RS), on 5,000 images of CIFAR-10. What
overfits is the attack: the network learns to withstand one step while PGD, which takes more, is always right. Both
variants see the same batches and the same random starts; AAER has the authors' weights. After each epoch: accuracy on
held-out images, clean, under FGSM (the one step from the image itself) and under PGD-20, and the share of abnormal
images of the epoch, which is known without any attack of its own. No augmentation. Gradients are clipped in both
variants: without it AAER ran away in one of three seeds.

Network, rate and length were chosen because plain one-step training collapses with them within minutes on a CPU, on
seed 0 and on some of the images that are reported: what is compared is the two variants, not either with the
literature. Wider and pre-trained networks of this size did not collapse in so few steps.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

import kedge
import kedge.data
from kedge.attacks import FGSM, PGD
from kedge.clock import now
from kedge.data import ImageSet, generator, training_batches
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.layout import channels_last
from kedge.networks import create
from kedge.objectives import AAER, CrossEntropy

RESULTS = Path(__file__).parent / "results"
VARIANTS: dict[str, tuple[float, float, float] | None] = {"fgsm": (0.0, 0.0, 0.0), "aaer": None}
NAMES = {"fgsm": "FGSM-RS alone", "aaer": "FGSM-RS with AAER"}
COLUMNS = ("clean accuracy", "FGSM accuracy", "PGD-20 accuracy", "abnormal ratio")


def accuracies(model: Any, images: torch.Tensor, labels: torch.Tensor, eps: float) -> dict[str, float]:
    """Clean, under one step and under twenty, in percent, in eval mode."""
    shown = {
        "clean accuracy": images,
        "FGSM accuracy": FGSM(eps)(model, images, labels),
        "PGD-20 accuracy": PGD(eps, 20, early_stop=True)(model, images, labels),
    }
    model.eval()
    with torch.no_grad():
        return {name: 100 * float((model(x).argmax(1) == labels).float().mean()) for name, x in shown.items()}


def train(
    settings: argparse.Namespace, seed: int, variant: str, images: ImageSet, held: ImageSet
) -> list[dict[str, float]]:
    """One row for each epoch."""
    torch.manual_seed(generator(seed, "weights").initial_seed())
    arguments = {"width": settings.width} if settings.network.startswith("kedge") else {}
    network = create(settings.network, 10, arguments=arguments)
    pixels = images.images[:1000] / 255  # type: ignore[attr-defined]
    moments = [getattr(pixels, moment)((0, 2, 3)).tolist() for moment in ("mean", "std")]
    model = kedge.plain(network, example=(3, 32, 32), mean=moments[0], std=moments[1])
    # Convolutions of few channels are a third faster on a CPU in this order of memory.
    model = channels_last(model, always=True)
    eps = settings.eps / 255
    attack, draws = FGSM(eps, variant="rs"), generator(seed, "starts")
    objective = AAER(CrossEntropy(), attack, VARIANTS[variant], generator=draws)
    batches = training_batches(images, settings.batch, seed)
    steps = settings.epochs * len(batches)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, momentum=0.9, weight_decay=5e-4)
    # Up to the peak in half of the run and down again, as in the authors' experiments.
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - abs(2 * (step + 1) / (steps + 1) - 1))
    test, labels = held.images / 255, held.labels  # type: ignore[attr-defined]
    rows = []
    for epoch in range(settings.epochs):
        model.train()
        batches.set_epoch(epoch)
        losses, abnormal = [], []
        for batch, targets in batches:
            pixels = (batch / 255).contiguous(memory_format=torch.channels_last)
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                loss = objective(model, pixels, targets)
            optimizer.zero_grad()
            loss.backward()
            # The squared distances of AAER have no bound, and at this rate its loss runs away without one.
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            losses.append(loss.detach())
            abnormal.append(objective.logged["abnormal_ratio"])
        if not bool(torch.stack(losses).isfinite().all()):
            print(f"seed {seed}, {NAMES[variant]}, epoch {epoch + 1}: the loss ran away", file=sys.stderr, flush=True)
            break
        row = accuracies(model, test, labels, eps)
        row["abnormal ratio"] = 100 * float(torch.stack(abnormal).mean())
        row["training loss"] = float(torch.stack(losses).mean())
        rows.append({name: round(value, 3) for name, value in row.items()})
        print(f"seed {seed}, {NAMES[variant]}, epoch {epoch + 1}: {rows[-1]}", file=sys.stderr, flush=True)
    return rows


def collapse(rows: list[dict[str, float]]) -> int | None:
    """The epoch (from 1) from which on PGD leaves less than a quarter of what FGSM leaves right; None: sound."""
    fooled = [row["PGD-20 accuracy"] < 0.25 * row["FGSM accuracy"] for row in rows]
    sound = [epoch for epoch, each in enumerate(fooled, 1) if not each]
    first = (sound[-1] if sound else 0) + 1
    return first if first <= len(rows) else None


def table(runs: dict[str, list[list[dict[str, float]]]]) -> str:
    """The last epoch, mean ± standard deviation over seeds, variants side by side."""
    lines = ["| last epoch, % | " + " | ".join(NAMES[v] for v in runs) + " |", "| --- |" + " ---: |" * len(runs)]
    for name in COLUMNS:
        cells = []
        for seeds in runs.values():
            values = [rows[-1][name] for rows in seeds]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    counts = [f"{sum(collapse(rows) is not None for rows in seeds)} of {len(seeds)}" for seeds in runs.values()]
    return "\n".join([*lines, "| seeds that collapsed | " + " | ".join(counts) + " |"])


def main() -> None:
    """Train, measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--network", default="kedge_resnet18")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--lr", type=float, default=0.1, help="the peak, half way")
    parser.add_argument("--clip", type=float, default=5.0, help="largest norm of the gradient, in both variants")
    parser.add_argument("--precision", default="32", choices=("32", "bf16"), help="of training; judged in float32")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--variant", choices=tuple(VARIANTS), help="one of the two alone")
    parser.add_argument("--eps", type=float, default=16, help="in levels of 255")
    parser.add_argument("--images", type=int, default=5000, help="training images")
    parser.add_argument("--held", type=int, default=200, help="test images that are attacked")
    parser.add_argument("--quick", action="store_true", help="one epoch, one seed, few images: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "catastrophic.json")
    args = parser.parse_args()
    if args.quick:
        args.epochs, args.seeds, args.images, args.held = 1, 1, 256, 50
    images = kedge.data.load("cifar10", "train").subset(range(args.images))
    held = kedge.data.load("cifar10", "test").subset(range(args.held))
    variants = [args.variant] if args.variant else list(VARIANTS)
    runs: dict[str, list[list[dict[str, float]]]] = {variant: [] for variant in variants}
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    settings = {k: v for k, v in vars(args).items() if k not in ("seeds", "first", "quick", "out", "variant")}
    for seed in range(args.first, args.first + args.seeds):
        for variant in variants:
            started = time.perf_counter()
            runs[variant].append(train(args, seed, variant, images, held))
            seconds[variant].append(round(time.perf_counter() - started, 1))
            # Written after every run: one that is broken off leaves what it has.
            record = {
                "command": " ".join(["python -m benchmarks.catastrophic", *sys.argv[1:]]),
                "created": now(),
                "machine": machine(),
                "settings": {**settings, "weights": AAER(CrossEntropy(), FGSM(args.eps / 255, variant="rs")).weights},
                "variants": NAMES,
                "collapse": "from this epoch on PGD-20 leaves less than a quarter of what FGSM leaves right",
                "collapsed_in_epoch": {name: [collapse(rows) for rows in each] for name, each in runs.items()},
                "percent_after_each_epoch": runs,
                "ran_away_after_epoch": {
                    name: [len(rows) if len(rows) < args.epochs else None for rows in each]
                    for name, each in runs.items()
                },
                "seconds": seconds,
                "table": table(runs).splitlines(),
            }
            args.out.parent.mkdir(parents=True, exist_ok=True)
            write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
