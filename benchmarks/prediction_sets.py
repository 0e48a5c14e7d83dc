"""Prediction sets: the coverage that is measured against the one that is promised.

    KEDGE_DATA=path/to/packs python -m benchmarks.prediction_sets --weights path/to/weights

Simulated: labels drawn from known probabilities, of which the model knows a colder version. Real: a logistic regression
on digits with noise, and the published ResNet-20 for CIFAR-10, whose images are split anew into calibration and test
images; then other images than those of calibration, corrupted ones. "warned" is what `Outlook` says of these without
labels. Last: references of an anchored model and two published networks, merged in several ways.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

import kedge
from benchmarks.frost import network
from benchmarks.side_by_side import finish, options, table
from benchmarks.side_by_side import parser as common
from kedge.data.corruptions import NAMES, corrupt
from kedge.postprocess import (
    PredictionSets,
    conformal_threshold,
    coverage_of_members,
    majority,
    merged_scores,
    set_scores,
)

KINDS = ("lac", "aps", "raps", "aps, draws")
COVERAGES = (0.8, 0.9, 0.95)
SIMULATED, SPLITS = 200, 20
SEVERITIES = (1, 3, 5)


def scores_of(logits: Tensor, kind: str, seed: int = 0) -> Tensor:
    """The scores of every class; with draws those of the papers."""
    name = kind.partition(",")[0]
    draws = torch.rand(len(logits), generator=torch.Generator().manual_seed(seed)) if "draws" in kind else None
    return set_scores(logits, name, draws)


class Tally:
    """Coverage, by class too, and size over splits."""

    def __init__(self) -> None:
        self.covered: list[float] = []
        self.sizes: list[float] = []
        self.of_class: list[list[float]] = []

    def add(self, scores: Tensor, labels: Tensor, threshold: Tensor | float, classes: int) -> None:
        """Count one split's test images."""
        sets = scores <= threshold
        hit = sets.gather(1, labels[:, None])[:, 0].double()
        self.covered.append(float(hit.mean()))
        self.sizes.append(float(sets.sum(1).double().mean()))
        self.of_class.append([float(hit[labels == k].mean()) for k in range(classes)])

    def cells(self) -> list[str]:
        """Coverage, that of the class with the lowest mean over splits, and size."""
        spread = statistics.stdev(self.covered)
        worst = np.nanmean(np.array(self.of_class), 0).min()
        return [f"{100 * statistics.mean(self.covered):.1f} ± {100 * spread:.1f}", f"{100 * worst:.1f}",
                f"{statistics.mean(self.sizes):.2f}"]  # fmt: skip


def order_of(n: int, seed: int) -> Tensor:
    """A random order of n images."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(seed))


def thresholds(scores: Tensor, labels: Tensor, coverage: float, by_class: bool, classes: int) -> Tensor:
    """`[1]`, or `[C]` by class, of the calibration images."""
    own = scores.gather(1, labels[:, None])[:, 0]
    parts = [own[labels == k] for k in range(classes)] if by_class else [own]
    return torch.tensor([conformal_threshold(part, coverage) for part in parts], dtype=torch.float64)


def rows_of(
    title: str, splits: int, sample: Callable[[int], tuple[Tensor, Tensor, Tensor, Tensor]],
    coverages: Sequence[float], classes: int,
) -> list[list[Any]]:  # fmt: skip
    """A row for each score, coverage and way of setting the threshold; `sample(seed)`: calibration and test images."""
    rows = []
    for by_class in (False, True):
        for kind in KINDS:
            tallies = {coverage: Tally() for coverage in coverages}
            for seed in range(splits):
                known, own, others, labels = sample(seed)
                fit, test = scores_of(known, kind, seed), scores_of(others, kind, seed + 10_000)
                for coverage, tally in tallies.items():
                    tally.add(test, labels, thresholds(fit, own, coverage, by_class, classes), classes)
            for coverage, tally in tallies.items():
                rows.append([title, kind, "each class" if by_class else "all", f"{100 * coverage:g}", *tally.cells()])
    return rows


def simulated(splits: int) -> list[list[Any]]:
    """Ten classes, logits of deviation 1.5, labels drawn at a temperature of 1.7."""

    def sample(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        draws = torch.Generator().manual_seed(seed)
        logits = 1.5 * torch.randn(2300, 10, generator=draws)
        labels = torch.multinomial((logits / 1.7).softmax(1), 1, generator=draws)[:, 0]
        return logits[:500], labels[:500], logits[500:2300], labels[500:2300]

    return rows_of("simulated, 500 calibration images", splits, sample, COVERAGES, 10)


def digits() -> tuple[Callable[[float, int], Tensor], Tensor]:
    """Logits of a logistic regression, trained on half of the digits at noise 0.5, on the others at another noise."""
    parts = [kedge.data.load("digits", split) for split in ("train", "val", "test")]
    pixels = torch.cat([part.images for part in parts]).flatten(1).double() / 255
    labels = torch.cat([part.labels for part in parts])
    order = order_of(len(labels), 0)
    half = len(labels) // 2
    train, rest = order[:half], order[half:]

    def noisy(images: Tensor, noise: float, seed: int) -> Tensor:
        draws = torch.Generator().manual_seed(seed)
        return images + noise * torch.randn(images.shape, generator=draws, dtype=torch.float64)

    model = LogisticRegression(max_iter=2000).fit(noisy(pixels[train], 0.5, 1).numpy(), labels[train].numpy())

    def logits(noise: float, seed: int) -> Tensor:
        return torch.from_numpy(model.decision_function(noisy(pixels[rest], noise, seed).numpy()))

    return logits, labels[rest]


def on_digits(splits: int) -> tuple[list[list[Any]], list[list[Any]]]:
    """(coverage as promised, coverage where the noise is another one)."""
    logits, labels = digits()
    at, louder = logits(0.5, 2), {noise: logits(noise, 3) for noise in (0.3, 0.5, 0.7, 0.9)}

    def sample(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        order = order_of(len(labels), seed)
        return at[order[:300]], labels[order[:300]], at[order[300:]], labels[order[300:]]

    rows = rows_of("digits, noise 0.5, 300 calibration images", splits, sample, COVERAGES, 10)
    shifted = []
    for kind in ("lac", "aps", "raps"):
        for noise, other in louder.items():
            tally, warned = Tally(), 0
            for seed in range(splits):
                order = order_of(len(labels), seed)
                quiet = logits(0.3, 4)[order[:300]]
                step = PredictionSets(PredictionSets.fit(quiet, labels[order[:300]], coverage=0.9, sets=kind))
                rest = order[300:]
                threshold = torch.tensor(step.value["thresholds"], dtype=torch.float64)
                tally.add(scores_of(other[rest], kind), labels[rest], threshold, 10)
                warned += broken(step, other[rest])
            shifted.append(["digits, calibrated at noise 0.3", f"noise {noise:g}", kind, "90", *tally.cells(),
                            f"{warned} of {splits}"])  # fmt: skip
    return rows, shifted


def broken(step: PredictionSets, logits: Tensor) -> bool:
    """Whether the outlook for these images, without labels, is that nothing can be relied on."""
    right, unfamiliar = (int(flags.sum()) for flags in step.usual(logits))
    return step.outlook(len(logits), right, unfamiliar).broken


@torch.no_grad()
def asked(model: Any, images: Tensor, batch: int = 250) -> Tensor:
    """The logits of images in [0, 1]."""
    return torch.cat([model.predict(part, check=False).logits for part in images.split(batch)])


def on_cifar(args: argparse.Namespace, splits: int, say: Any) -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """(coverage as promised, under corruption, how the warning did, two networks merged)."""
    test = kedge.data.load("cifar10", "test")
    few = 300 if args.quick else len(test)
    labels, pixels = test.labels[:few], test.images[:few].float() / 255
    models = [network(args.weights, depth) for depth in (20, 56)]
    logits = asked(models[0], pixels)
    say(f"ResNet-20 on {few} clean images")
    held = min(500, few // 2)  # the last ones are for corruptions
    size = min(1000, few // 3)

    def sample(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        order = order_of(few, seed)
        return logits[order[:size]], labels[order[:size]], logits[order[size:]], labels[order[size:]]

    rows = rows_of(f"CIFAR-10, ResNet-20, {size} calibration images", splits, sample, (0.8, 0.9, 0.95, 0.99), 10)
    shifted, verdicts = [], []
    away, truth, places = pixels[-held:], labels[-held:], torch.arange(few - held, few)
    names = NAMES[:2] if args.quick else NAMES
    corrupted = {(name, s): asked(models[0], corrupt(away, name, s, indices=places, seed=0))
                 for s in SEVERITIES for name in names}  # fmt: skip
    say(f"{len(corrupted)} corrupted sets")
    for coverage in (0.9, 0.95, 0.99):
        for kind in ("lac", "aps", "raps"):
            steps = []
            for seed in range(splits):
                order = order_of(few - held, seed)[:size]
                steps.append(PredictionSets(
                    PredictionSets.fit(logits[order], labels[order], coverage=coverage, sets=kind)
                ))  # fmt: skip
            for severity in (0, *SEVERITIES):
                tally, warned, of = Tally(), 0, 0
                cases = [logits[-held:]] if severity == 0 else [corrupted[name, severity] for name in names]
                for other in cases:
                    scores = scores_of(other, kind)
                    for step in steps:
                        tally.add(scores, truth, torch.tensor(step.value["thresholds"], dtype=torch.float64), 10)
                        alarm = broken(step, other) if kind == "lac" else False
                        verdicts.append((coverage, tally.covered[-1], alarm, kind))
                        warned, of = warned + alarm, of + 1
                where = "clean" if severity == 0 else f"severity {severity}, {len(names)} corruptions"
                shifted.append([
                    "CIFAR-10, calibrated on clean images", where, kind, f"{100 * coverage:g}", *tally.cells(),
                    f"{warned} of {of}" if kind == "lac" else "",
                ])  # fmt: skip
    warnings = []
    for coverage in (0.9, 0.95, 0.99):
        own = [(covered, alarm) for c, covered, alarm, kind in verdicts if c == coverage and kind == "lac"]
        for words, low, high in (
            ("within 2 points of the promise, or above", coverage - 0.02, 2.0),
            ("2 to 5 points below", coverage - 0.05, coverage - 0.02),
            ("5 to 15 points below", coverage - 0.15, coverage - 0.05),
            ("more than 15 points below", -1.0, coverage - 0.15),
        ):
            alarms = [alarm for covered, alarm in own if low <= covered < high]
            if alarms:
                warnings.append([f"{100 * coverage:g}", words, len(alarms), f"{100 * sum(alarms) / len(alarms):.0f}"])
    some = min(few, 4000)
    both = torch.stack([logits[:some], asked(models[1], pixels[:some])])
    say(f"ResNet-56 on {some} clean images")
    merged = merges("CIFAR-10, ResNet-20 and ResNet-56", both, labels[:some], splits, size, (0.95,))
    return rows, shifted, warnings, merged


def merges(
    title: str, logits: Tensor, labels: Tensor, splits: int, size: int, coverages: Sequence[float]
) -> list[list[Any]]:
    """Ways to one set from members' logits `[M, N, C]`: which coverage they give, and how large the sets are."""
    rows, classes = [], logits.shape[2]
    ways: dict[str, Callable[[Tensor], Tensor]] = {
        "first member alone": lambda z: set_scores(z[0]),
        "mean logits, then threshold": lambda z: set_scores(z.mean(0)),
        "mean probabilities, then threshold": lambda z: set_scores(z.double().softmax(-1).mean(0).log()),
        "mean score, then threshold": lambda z: merged_scores(set_scores(z), "mean"),
        "median score, then threshold": lambda z: merged_scores(set_scores(z), "median"),
        "0.8-quantile of scores, then threshold": lambda z: merged_scores(set_scores(z), 0.8),
    }
    for coverage in coverages:
        for way, scores in ways.items():
            every, tally = scores(logits), Tally()
            for seed in range(splits):
                order = order_of(len(labels), seed)
                fit, rest = order[:size], order[size:]
                tally.add(every[rest], labels[rest], thresholds(every[fit], labels[fit], coverage, False, 1), classes)
            rows.append([title, way, f"{100 * coverage:g}", *tally.cells()])
        every = set_scores(logits)
        for way, each in (
            ("majority of members, each at the coverage itself", coverage),
            ("majority of members, each at (1 + coverage) / 2", coverage_of_members(coverage)),
        ):
            tally = Tally()
            for seed in range(splits):
                order = order_of(len(labels), seed)
                fit, rest = order[:size], order[size:]
                sets = torch.stack([one[rest] <= thresholds(one[fit], labels[fit], each, False, 1) for one in every])
                tally.add((~majority(sets)).double(), labels[rest], 0.5, classes)
            rows.append([title, way, f"{100 * coverage:g}", *tally.cells()])
    return rows


def references(splits: int, epochs: int) -> list[list[Any]]:
    """An anchored network on digits, its ten references as members, on noisy images that it was not trained on."""
    from kedge.training import Recipe, fit

    with tempfile.TemporaryDirectory() as folder:
        model = fit(Recipe(data="digits", epochs=epochs, runs=folder, name="anchored", seed=0), progress=False).model
    held = [kedge.data.load("digits", split) for split in ("val", "test")]
    labels = torch.cat([part.labels for part in held])
    pixels = corrupt(torch.cat([part.images for part in held]).float() / 255, "gaussian_noise", 5, seed=0)
    with torch.no_grad():
        each = [model.predict(part, keep_per_reference=True, check=False).per_reference for part in pixels.split(128)]
    return merges("digits, gaussian noise 5, 10 references", torch.cat(each, 1), labels, splits, 250, (0.9,))


def members(splits: int) -> list[list[Any]]:
    """Simulated members that see the truth through noise of their own."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.randint(4, (6000,), generator=draws)
    truth = 2.0 * torch.nn.functional.one_hot(labels, 4) + torch.randn(6000, 4, generator=draws)
    each = truth + torch.randn(5, 6000, 4, generator=draws)
    return merges("simulated, 5 members with noise of their own", each, labels, splits, 300, (0.9,))


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure; the exit status."""
    made = common("prediction_sets", __doc__)
    made.add_argument("--weights", type=Path, required=True)
    args = options(made, arguments)
    began = time.perf_counter()

    def say(words: str) -> None:
        print(f"{time.perf_counter() - began:.0f} s: {words}", flush=True)

    many, few = (10, 3) if args.quick else (SIMULATED, SPLITS)
    promised = simulated(many)
    say("simulated")
    own, shifted = on_digits(few)
    say("digits")
    cifar, away, warnings, merged = on_cifar(args, few, say)
    merged = members(few if args.quick else 100) + references(few, 1 if args.quick else 10) + merged
    say("merged")
    sizes = ["coverage, mean ± sd over splits, %", "worst class, %", "classes in a set"]
    tables = [
        table(
            "Coverage of images like the calibration images",
            ["images", "score", "threshold", "promised, %", *sizes], promised + own + cifar,
            f"{many} simulated draws, {few} random splits of real images. aps and raps without draws are never empty, "
            "and cover what the answer alone does where that is more than was promised. Of a class with too few images "
            "for a threshold every set holds every class; kedge calibrate refuses.",
        ),
        table(
            "Coverage of other images, and how often the outlook warned without labels",
            ["images", "which", "score", "promised, %", *sizes, "warned"], shifted + away,
            "The warning does not depend on the score, and stands beside lac alone for CIFAR-10.",
        ),
        table(
            "The warning on 57 corrupted sets and a clean one of CIFAR-10, 500 images each, 20 calibrations",
            ["promised, %", "measured coverage", "cases", "warned, %"], warnings,
        ),
        table("Several references or networks", ["members", "set from", "promised, %", *sizes], merged),
    ]  # fmt: skip
    return finish(args, tables=tables, seconds=time.perf_counter() - began)


if __name__ == "__main__":
    raise SystemExit(main())
