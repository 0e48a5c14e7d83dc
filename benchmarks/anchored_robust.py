"""Does anchoring before or during adversarial fine-tuning help? On a CPU-sized part of CIFAR-10.

    KEDGE_DATA=path/to/packs python -m benchmarks.anchored_robust

Four arms, three seeds: a network trained plain, anchored or anchored with reference masking on natural images, then
fine-tuned on PGD-3 images of ε 8/255, plain or anchored. The attack of a training step sees the references of that
step. A trained model is judged by what `predict` says, the mean over its bank of references, under attacks that see the
bank: the gradient of that mean, and the mean gradient over references drawn anew at every step. Beside them is what an
attack on the first reference alone would report. A network and a training set this small say what happens here.

Each finished row is written at once, and rows that the file holds are not run again.
"""

import argparse
import json
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import kedge
import kedge.data
from kedge.attacks import PGD, AutoAttack, Bank
from kedge.clock import now
from kedge.data import ImageSet
from kedge.evaluation import evaluate
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.metrics import exact_interval
from kedge.training import Recipe, fit

RESULTS = Path(__file__).parent / "results"
EPS = 8 / 255
ADVERSARIAL: list[Any] = [{"Adversarial": {"attack": {"PGD": {"eps": EPS, "steps": 3, "step_size": EPS / 2}}}}]


def anchored(alpha: float) -> list[Any]:
    """The entry of an objective that anchors."""
    return [{"Anchored": {"alpha": alpha}}]


NATURAL: dict[str, dict[str, Any]] = {
    "plain": {"anchored": False, "objective": ["CrossEntropy"]},
    "anchored": {"anchored": True, "objective": [*anchored(0.0), "CrossEntropy"]},
    "masked": {"anchored": True, "objective": [*anchored(0.25), "CrossEntropy"]},
}
# (what it starts from, how it is fine-tuned)
ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain, then plain": ("plain", {"objective": [*ADVERSARIAL, "CrossEntropy"]}),
    "plain, then anchored": ("plain", {"anchored": True, "objective": [*anchored(0.0), *ADVERSARIAL, "CrossEntropy"]}),
    "anchored, then anchored": ("anchored", {"objective": [*anchored(0.0), *ADVERSARIAL, "CrossEntropy"]}),
    "masked, then masked": ("masked", {"objective": [*anchored(0.25), *ADVERSARIAL, "CrossEntropy"]}),
}
CORRUPTIONS = ("gaussian_noise", "gaussian_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
OWN = "PGD-20"  # on what the model predicts: the plain model itself, or the mean over the bank
SECONDS = "seconds of fine-tuning"  # of one core
# The baseline of each question, and the arm that answers it.
QUESTIONS = {
    "anchored while fine-tuning only": ("plain, then plain", "plain, then anchored"),
    "anchored before and while fine-tuning": ("plain, then plain", "anchored, then anchored"),
    "masked before and while fine-tuning": ("plain, then plain", "masked, then masked"),
    "anchored before, given that it is while fine-tuning": ("plain, then anchored", "anchored, then anchored"),
}


def run(recipe: dict[str, Any], sets: tuple[ImageSet, ImageSet]) -> tuple[Any, float | None]:
    """The model that a recipe makes, and the seconds of this process; a run that is there already is read."""
    folder = Path(recipe["runs"]) / recipe["name"]
    if (folder / "model" / "config.json").is_file():
        return kedge.load(folder / "model"), None
    shutil.rmtree(folder, ignore_errors=True)
    started = time.process_time()
    return fit(Recipe(**recipe), sets=sets, progress=False).model, time.process_time() - started


def right(model: Any, images: Tensor, labels: Tensor) -> Tensor:
    """Which images `[B]` are predicted right; of a model with a bank by the mean over it."""
    return model.predict(images).logits.argmax(1) == labels


def percent(hits: Tensor) -> float:
    """The share of hits."""
    return 100 * float(hits.float().mean())


def attacked(model: Any, images: Tensor, labels: Tensor) -> dict[str, float]:
    """Percent of predictions that stay right, by attack; three attempts for every model in `worst of three`."""
    pgd = PGD(EPS, steps=20, early_stop=True)
    found = {}
    if hasattr(model, "references"):
        bank, over = Bank(model), PGD(EPS, steps=20, early_stop=True, over_references=len(model.references))
        # To the end: an image that is left alone at the edge of one reference's error says little of the others.
        first = PGD(EPS, steps=20)(model, images, labels)
        with torch.no_grad():
            found["PGD-20 on one reference, judged on it"] = percent(model(first).argmax(1) == labels)
        survived = {
            "PGD-20 on one reference, judged on the bank": right(model, first, labels),
            OWN: right(model, pgd(bank, images, labels), labels),
            "PGD-20 over references": right(model, over(bank, images, labels), labels),
        }
    else:
        seeds = [PGD(EPS, steps=20, early_stop=True, seed=seed) for seed in range(3)]
        tries = [right(model, attack(model, images, labels), labels) for attack in seeds]
        survived = {OWN: tries[0], "again": tries[1], "and again": tries[2]}
    found |= {name: percent(hits) for name, hits in survived.items() if "again" not in name}
    found["worst of three attempts"] = percent(torch.stack([*survived.values()]).all(0))
    return found


def measure(model: Any, test: ImageSet, limit: int, under_attack: int) -> dict[str, float]:
    """The row of one model, in percent: clean, corrupted, attacked."""
    quick: dict[str, Any] = {"resamples": 0, "examples": 0}
    model = model.eval().to(memory_format=torch.channels_last)
    clean = evaluate({"m": model}, test, shift=(), **quick)["models"]["m"]["clean"]
    shift = evaluate({"m": model}, test, shift=CORRUPTIONS, limit=limit, **quick)["models"]["m"]["shift"]["mean"]
    row = {"clean accuracy": 100 * clean["accuracy"]["value"], "clean ECE": 100 * clean["ece"]["value"]}
    row |= {"corrupted accuracy": 100 * shift["accuracy"]["value"], "corrupted ECE": 100 * shift["ece"]["value"]}
    return row | attacked(model, *pixels(test, under_attack))


def pixels(test: ImageSet, count: int) -> tuple[Tensor, Tensor]:
    """The first images `[count, C, H, W]` in [0, 1], and their labels."""
    images, labels = next(iter(test.subset(range(count)).batches(count)))
    return (images.float() / 255).contiguous(memory_format=torch.channels_last), labels


def autoattack(model: Any, test: ImageSet, count: int) -> dict[str, dict[str, Any]]:
    """Right answers of `count` under AutoAttack, with exact intervals: standard on predictions, rand where there is a
    bank to draw from; both judged on predictions, and on the references one by one.

    rand leaves an image alone that its first draw gets wrong, though the mean over the bank may get it right.
    """
    images, labels = pixels(test, count)
    model = model.eval().to(memory_format=torch.channels_last)
    faced: nn.Module = Bank(model) if hasattr(model, "references") else model
    found = {}
    for version in ("standard", "rand") if faced is not model else ("standard",):
        started = time.process_time()
        made = AutoAttack(EPS, version=version)(faced, images, labels)
        hits = int(right(model, made, labels).sum())
        interval = [round(100 * bound, 1) for bound in exact_interval(hits, count)]
        found[version] = {
            "right": hits, "of": count, "percent": 100 * hits / count, "interval": interval,
            "seconds": time.process_time() - started,
        }  # fmt: skip
        if faced is not model:
            each = model.predict(made, keep_per_reference=True).per_reference.argmax(-1) == labels
            found[version]["percent with one reference, mean over the bank"] = percent(each)
    return found


def table(rows: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Mean ± standard deviation over the seeds, arms side by side."""
    names = max((list(row) for runs in rows.values() for row in runs.values()), key=len)
    lines = ["| % | " + " | ".join(rows) + " |", "| --- |" + " ---: |" * len(rows)]
    for name in names:
        cells = []
        for runs in rows.values():
            values = [row[name] for row in runs.values() if name in row]
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "-")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def paired(rows: dict[str, dict[str, dict[str, float]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Differences of two arms seed by seed; `clear` where Student's 95 % interval of their mean leaves out zero."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for question, (base, arm) in QUESTIONS.items():
        seeds = [seed for seed in rows.get(arm, {}) if seed in rows.get(base, {})]
        if len(seeds) < 2:
            continue
        quantile = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78}.get(len(seeds), 2.6)
        for name in rows[arm][seeds[0]]:
            if name not in rows[base][seeds[0]] or name == SECONDS:
                continue
            differences = [rows[arm][seed][name] - rows[base][seed][name] for seed in seeds]
            mean, spread = statistics.mean(differences), statistics.stdev(differences)
            clear = abs(mean) > quantile * spread / len(seeds) ** 0.5
            entry = {"differences": differences, "mean": mean, "spread": spread, "clear": clear}
            found.setdefault(question, {})[name] = entry
    return found


def main() -> None:
    """Run what is missing, print the table, keep the file up to date."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=3000, help="training images")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--clean", type=int, default=2000, help="test images without corruption or attack")
    parser.add_argument("--limit", type=int, default=300, help="test images under each corruption")
    parser.add_argument("--attacked", type=int, default=300, help="test images under PGD")
    parser.add_argument("--auto", type=int, default=50, help="test images under AutoAttack, models of the first seed")
    parser.add_argument("--precision", default="bf16", choices=("32", "bf16"), help="of training; judged in float32")
    parser.add_argument("--runs", type=Path, default=Path("runs/anchored_robust"), help="where the models are kept")
    parser.add_argument("--out", type=Path, default=RESULTS / "anchored_robust.json")
    args = parser.parse_args()
    settings = {key: getattr(args, key) for key in ("images", "width", "clean", "limit", "attacked", "auto")}
    settings |= {"precision": args.precision, "eps": "8/255", "training attack": "PGD-3, step 4/255", "batch": 64}
    settings |= {"natural": "30 epochs, cosine, lr 0.1", "fine-tuning": "10 epochs, slow-start-fast-decay, lr 0.05"}
    settings |= {"references": 4, "network": "kedge_resnet_small", "corruptions": [*CORRUPTIONS], "model": "the last"}
    record: dict[str, Any] = {"rows": {}, "autoattack": {}}
    if args.out.is_file():
        record = json.loads(args.out.read_text(encoding="utf-8"))
        if record["settings"] != settings:
            raise SystemExit(f"{args.out} holds results with other settings: {record['settings']}")

    def keep() -> None:
        asked = [f"--{key} {settings[key]}" for key in ("images", "width", "clean", "limit", "attacked", "auto")]
        command = f"python -m benchmarks.anchored_robust --seeds {args.seeds} {' '.join(asked)}"
        record.update(
            command=f"{command} --precision {args.precision}", created=now(), machine=machine(), settings=settings
        )
        record.update(table=table(record["rows"]), paired=paired(record["rows"]))
        write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")

    whole = kedge.data.load("cifar10", "train")
    test = kedge.data.load("cifar10", "test").subset(range(args.clean))
    sets = whole.subset(range(args.images)), whole.subset(range(args.images, args.images + 500))
    common = {
        "data": "cifar10", "batch_size": 64, "precision": args.precision, "references": 4, "val_pgd_steps": 0,
        "keep": "last", "device": "cpu", "runs": str(args.runs),
    }  # fmt: skip
    natural = {"model": "kedge_resnet_small", "arguments": {"width": args.width}, "lr": 0.1, "epochs": 30}
    tuning = {"schedule": "slow-start-fast-decay", "lr": 0.05, "epochs": 10}
    for seed in range(args.seeds):
        for name, (start, changes) in ARMS.items():
            rows = record["rows"].setdefault(name, {})
            todo = str(seed) not in rows
            if not todo and (seed > 0 or args.auto == 0 or name in record["autoattack"]):
                continue
            run({**common, **natural, **NATURAL[start], "seed": seed, "name": f"{start}-{seed}"}, sets)
            again = {"init_from": str(args.runs / f"{start}-{seed}"), "seed": seed}
            title = name.replace(", ", "-").replace(" ", "-") + f"-{seed}"
            model, seconds = run({**common, **tuning, **again, **changes, "name": title}, sets)
            if todo:
                rows[str(seed)] = measure(model, test, args.limit, args.attacked)
                if seconds is not None:
                    rows[str(seed)][SECONDS] = seconds
                print(f"{name}, seed {seed}: {rows[str(seed)]}", file=sys.stderr, flush=True)
                keep()
    for name in ARMS if args.auto else ():
        if name not in record["autoattack"]:
            title = name.replace(", ", "-").replace(" ", "-") + "-0"
            model = kedge.load(args.runs / title / "model")
            record["autoattack"][name] = autoattack(model, test, args.auto)
            print(f"AutoAttack, {name}: {record['autoattack'][name]}", file=sys.stderr, flush=True)
            keep()
    print("\n".join(record["table"]))


if __name__ == "__main__":
    main()
