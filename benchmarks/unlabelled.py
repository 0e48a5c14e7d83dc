"""How far estimates of accuracy without labels are off, over the 95 corrupted sets of CIFAR-10.

    KEDGE_DATA=path/to/packs python -m benchmarks.unlabelled --runs runs

`--runs` holds run folders VARIANT-SEED. Each model's estimators are fitted on images that its run held out, and asked
about each of 19 corruptions at 5 severities of the test images, whose labels then say how far off they were. Those that
fit a line instead of a threshold do so on copies of the held-out images under ten other corruptions, those of C-bar, at
severities 1, 3 and 5. The error of an estimate includes that of the accuracy itself on so few images.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import kedge
from kedge.clock import now
from kedge.data.corruptions import CBAR, NAMES, corrupt
from kedge.evaluation.provenance import machine
from kedge.evaluation.sets import limited
from kedge.files import write_text
from kedge.metrics import (
    agreement_of_references,
    average_thresholded_confidence,
    difference_of_confidences,
    log_odds,
)
from kedge.scores import Entropy, Outputs
from kedge.training.folder import RunFolder
from kedge.training.held_out import RunImages
from kedge.training.record import ImageRecord

RESULTS = Path(__file__).parent / "results"
SEVERITIES = (1, 2, 3, 4, 5)
Scores = dict[str, Tensor]
ATC, DOC = average_thresholded_confidence, difference_of_confidences
# title: (score, how); None: the source accuracy as it is, "mean": the mean score, "line": a line fitted to mean scores
ESTIMATORS: dict[str, tuple[str, Any]] = {
    "none: accuracy on held-out images": ("confidence", None),
    "mean confidence": ("confidence", "mean"),
    "DoC, confidence": ("confidence", DOC),
    "ATC, confidence": ("log odds", ATC),
    "ATC, entropy": ("entropy", ATC),
    "line, entropy": ("entropy", "line"),
    "ATC, disagreement (Δ-UQ)": ("disagreement", ATC),
    "line, disagreement (Δ-UQ)": ("disagreement", "line"),
    "ATC, spread of the answer's probability": ("spread", ATC),
    "DoC, agreement on the answer": ("agreement", DOC),
}


def asked(model: Any, images: Tensor, references: int) -> tuple[Tensor, Scores]:
    """(answers `[B]`, scores `[B]` by name, higher = surer); those of references only for anchored models."""
    if not hasattr(model, "references"):
        logits = model.predict(images).logits
        return logits.argmax(1), _of_logits(logits)
    found = model.predict(images, references=references, keep_per_reference=True)
    each = found.per_reference
    # In float32 the probability of a sure answer is 1 with every reference.
    spread = each.double().softmax(-1).std(0).gather(1, found.label[:, None])[:, 0]
    own = {"disagreement": -found.uncertainty, "spread": -spread, "agreement": agreement_of_references(each)}
    return found.label, {**_of_logits(found.logits), **own}


def _of_logits(logits: Tensor) -> Scores:
    return {
        "log odds": log_odds(logits),
        "confidence": logits.softmax(1).amax(1),
        "entropy": Entropy().score(Outputs(logits)),
    }


class Source:
    """What the estimators of one model are fitted on: held-out images, and copies of some under other corruptions."""

    def __init__(self, model: Any, held: Any, references: int, images: int, copies: int, seed: int) -> None:
        chosen, where = limited(held, images, seed)
        shown = chosen.images.float() / 255
        answers, self.scores = asked(model, shown, references)
        self.correct = answers == chosen.labels
        rows: list[tuple[float, dict[str, float]]] = []
        for name in CBAR:
            for severity in (1, 3, 5):
                worse = corrupt(shown[:copies], name, severity, indices=where[:copies], seed=seed)
                answers, scores = asked(model, worse, references)
                right = (answers == chosen.labels[:copies]).double().mean()
                rows.append((float(right), {key: float(value.double().mean()) for key, value in scores.items()}))
        self.lines = {
            key: statistics.linear_regression([row[1][key] for row in rows], [row[0] for row in rows])
            for key in self.scores
        }

    def estimates(self, target: Scores) -> dict[str, float]:
        """The accuracy that each estimator expects where the scores are `target`."""
        found = {}
        for title, (key, how) in ESTIMATORS.items():
            if key not in target:
                continue
            mean = float(target[key].double().mean())
            if how is None:
                found[title] = float(self.correct.double().mean())
            elif how == "mean":
                found[title] = mean
            elif how == "line":
                slope, start = self.lines[key]
                found[title] = min(1.0, max(0.0, start + slope * mean))
            else:
                found[title] = float(how(self.scores[key], self.correct, target[key]))
        return found


def table(errors: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> dict[str, Any]:
    """Mean absolute error, mean ± sd over seeds, and in brackets the worst set of any seed; points of accuracy."""
    variants = list(errors)
    rows = []
    for title in ESTIMATORS:
        cells = []
        for variant in variants:
            found = errors[variant].get(title, [])
            means = [one["mean"] for one in found]
            spread = f" ± {statistics.stdev(means):.1f}" if len(means) > 1 else ""
            worst = max((one["worst"] for one in found), default=0.0)
            cells.append(f"{statistics.mean(means):.1f}{spread} ({worst:.0f})" if means else "")
        rows.append([title, *cells])
    return {"title": "Mean absolute error over the corrupted sets, in points of accuracy: mean ± sd over seeds "
            "(the worst set of any seed)", "head": ["estimate", *variants], "rows": rows, "note": ""}  # fmt: skip


def errors_of(seen: list[tuple[float, dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Per estimator the mean absolute, the signed mean and the worst error over sets, in points."""
    found = {}
    for title in seen[0][1]:
        off = [100 * (estimates[title] - right) for right, estimates in seen]
        found[title] = {
            "mean": statistics.mean(map(abs, off)),
            "bias": statistics.mean(off),
            "worst": max(map(abs, off)),
        }
    return found


def load_models(runs: Path, only: list[str]) -> dict[str, tuple[Any, Any]]:
    """Name of a run to (model, the images it held out), of all finished runs VARIANT-SEED or those of some variants."""
    found: dict[str, tuple[Any, Any]] = {}
    held: dict[Any, Any] = {}
    for folder in sorted(runs.iterdir(), key=lambda f: (not f.name.startswith("standard"), f.name)):
        variant, _, seed = folder.name.rpartition("-")
        if not seed.isdigit() or not (folder / "model" / "config.json").is_file() or (only and variant not in only):
            continue
        recipe, record = RunFolder(folder).recipe(), ImageRecord.read(folder)
        old = (recipe.data, recipe.seed, recipe.split_seed, recipe.val_fraction)
        key = old if record is None else record.digest
        if key not in held:
            held[key] = RunImages(folder).val
        found[folder.name] = (kedge.load(folder / "model").eval(), held[key])
    if not found:
        raise SystemExit(f"no finished runs VARIANT-SEED in {runs}: train some, or name another folder with --runs")
    return found


def main() -> None:
    """Ask every model about every corrupted set, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of runs VARIANT-SEED on cifar10")
    parser.add_argument("--variants", nargs="*", default=[], help="only these")
    parser.add_argument("--limit", type=int, default=400, help="test images of each corrupted set")
    parser.add_argument("--held", type=int, default=1000, help="held-out images that thresholds are fitted on")
    parser.add_argument("--copies", type=int, default=150, help="of these, images that lines are fitted on, corrupted")
    parser.add_argument("--references", type=int, default=4, help="references of anchored models")
    parser.add_argument("--quick", action="store_true", help="few images and corruptions: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "unlabelled.json")
    args = parser.parse_args()
    if args.quick:
        args.limit, args.held, args.copies = 20, 50, 10
    began, say = time.perf_counter(), lambda words: print(words, file=sys.stderr, flush=True)
    models = load_models(args.runs, args.variants)
    test, where = limited(kedge.data.load("cifar10", "test"), args.limit, 0)
    shown = test.images.float() / 255
    sources = {
        name: Source(model, held, args.references, args.held, args.copies, 0) for name, (model, held) in models.items()
    }
    say(f"{len(models)} models, fitted after {time.perf_counter() - began:.0f} s")
    seen: dict[str, list[tuple[float, dict[str, float]]]] = {name: [] for name in models}
    names = NAMES[:2] if args.quick else NAMES
    for severity in SEVERITIES:
        for corruption in names:
            worse = corrupt(shown, corruption, severity, indices=where)
            for name, (model, _) in models.items():
                answers, scores = asked(model, worse, args.references)
                right = float((answers == test.labels).double().mean())
                seen[name].append((right, sources[name].estimates(scores)))
        # Written after every severity: a measurement that is broken off leaves what it has.
        record = written(args, seen, sources, len(names) * severity, time.perf_counter() - began)
        say(f"severity {severity}: {time.perf_counter() - began:.0f} s")
    print(json.dumps(record["tables"], indent=1, ensure_ascii=False))


def written(
    args: argparse.Namespace, seen: Mapping[str, Any], sources: Mapping[str, Source], sets: int, seconds: float
) -> dict[str, Any]:
    """The record so far, written to `--out`."""
    by_run = {name: errors_of(found) for name, found in seen.items()}
    by_variant: dict[str, dict[str, list[dict[str, float]]]] = {}
    for name, errors in by_run.items():
        own = by_variant.setdefault(name.rpartition("-")[0], {})
        for title, one in errors.items():
            own.setdefault(title, []).append(one)
    made = table(by_variant)
    seeds = {variant: len(next(iter(own.values()))) for variant, own in by_variant.items()}
    counts = ", ".join(f"{variant} {n}" for variant, n in seeds.items())
    made["note"] = (
        f"{sets} sets of {args.limit} test images each; {args.held} held-out images; {args.references} references; "
        f"seeds: {counts}. Corruptions are generated, not the published CIFAR-10-C files."
    )
    record = {
        "name": "unlabelled",
        "command": " ".join(["python -m benchmarks.unlabelled", *_without_paths(sys.argv[1:])]),
        "created": now(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "device": "cpu",
        "settings": {"limit": args.limit, "held": args.held, "copies": args.copies, "references": args.references},
        "seconds": seconds,
        "runs": {
            name: {
                "held-out accuracy": float(sources[name].correct.double().mean()),
                "accuracy over the sets": statistics.mean(right for right, _ in found),
                "errors": by_run[name],
            }
            for name, found in seen.items()
        },
        "rows": [],
        "tables": [made],
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def _without_paths(words: list[str]) -> list[str]:
    """The command line with folders by their last part."""
    return [Path(word).name if "/" in word else word for word in words]


if __name__ == "__main__":
    main()
