"""A small model first, a large one where it is not sure: what that costs, and how often its promise holds.

    KEDGE_DATA=path/to/packs python -m benchmarks.cascade

Two models answer the same images once; then the images are split many times, a rule is chosen on one part
(`kedge.cascade_rule.choose_rule`, as `kedge cascade` does) and the cascade judged on the rest. CIFAR-10: the published
ResNet-20 and ResNet-56 on the 10,000 test images. Digits: five trainings, a small network and a wide anchored one, and
that one alone, folded to its first reference and with all of them. Times are of the same batches, in turn. Called
again, it measures what its result lacks.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from benchmarks.published_networks import published
from benchmarks.side_by_side import finish, in_turn, options, spread, table, write
from benchmarks.side_by_side import parser as common
from kedge import data
from kedge.cascade import Cascade
from kedge.cascade_rule import choose_rule
from kedge.confidence import log_odds
from kedge.deploy import folded
from kedge.metrics import accuracy_interval
from kedge.seeds import generator
from kedge.training import Recipe, fit

SPLITS, SEEDS, TIMED = 100, 5, 128
# promises: what may be lost, and how certainly
PROMISES: tuple[dict[str, float], ...] = (
    {"max_loss": 0.005}, {"max_loss": 0.01}, {"max_loss": 0.01, "certainty": 0.95}, {"max_risk": 0.05},
    {"max_risk": 0.05, "certainty": 0.95},
)  # fmt: skip
CHOSEN_ON = {"cifar10": (200, 1000, 2000), "digits": (179,)}  # of digits as many as the validation split has
SMALL = {"model": "kedge_resnet_small", "arguments": {"width": 4}, "anchored": False, "epochs": 4,
         "objective": ["CrossEntropy"]}  # fmt: skip
LARGE = {"model": "kedge_resnet_small", "arguments": {"width": 16}, "anchored": True, "epochs": 12,
         "objective": ["Anchored", "CrossEntropy"]}  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """What two models answer to the same images: log odds of the small one, and who is right, `[N]`."""

    odds: Tensor
    small: Tensor
    large: Tensor

    def at(self, places: Tensor) -> "Answers":
        """Those of some images."""
        return Answers(self.odds[places], self.small[places], self.large[places])


def answers_of(small: Any, large: Any, pixels: Tensor, labels: Tensor) -> Answers:
    """Ask both models about all images (uint8)."""
    with torch.no_grad():
        first, second = (
            torch.cat([model.predict(part.float() / 255, check=False).logits for part in pixels.split(200)])
            for model in (small, large)
        )
    return Answers(log_odds(first), first.argmax(1) == labels, second.argmax(1) == labels)


def judged(answers: Answers, count: int, promise: Mapping[str, float], seed: int) -> dict[str, Any]:
    """Choose on `count` images drawn by the seed, judge on the others; shares in [0, 1]."""
    order = torch.randperm(len(answers.odds), generator=generator(seed, "cascade"))
    known, new = answers.at(order[:count]), answers.at(order[count:])
    base = {"small": float(new.small.double().mean()), "large": float(new.large.double().mean())}
    try:
        choice = choose_rule(known.odds, known.small, known.large, **promise)
    except ValueError:  # no rule keeps it, or too few images
        return {**base, "cascade": None}
    stands = new.odds >= choice.rule["log_odds"]
    right = torch.where(stands, new.small, new.large)
    lost = base["large"] - float(right.double().mean())
    risk = float((~new.small[stands]).double().mean()) if bool(stands.any()) else 0.0
    kept = lost <= promise.get("max_loss", 1.0) + 1e-12 and risk <= promise.get("max_risk", 1.0) + 1e-12
    passed = float((~stands).double().mean())
    return {**base, "cascade": base["large"] - lost, "lost": lost, "risk": risk, "passed": passed, "kept": kept}


def times_of(small: Any, large: Any, answers: Answers, pixels: Tensor, rounds: int) -> dict[str, Any]:
    """Milliseconds an image of each model and of the cascade that may lose half a point, and its share of the large."""
    rule = choose_rule(answers.odds, answers.small, answers.large, max_loss=0.005).rule
    both = Cascade(small, large, rule)
    draws = generator(0, "timed")
    batches = (pixels[torch.randperm(len(pixels), generator=draws)[:TIMED]].float() / 255).split(32)
    calls = {
        name: lambda model=model: [model.predict(batch, check=False) for batch in batches]
        for name, model in (("small", small), ("large", large), ("cascade", both))
    }
    times = in_turn(calls, rounds, warm=1)
    passed = torch.cat([both.passed_on(batch) for batch in batches]).double().mean()
    ratios = [a / b for a, b in zip(times["cascade"], times["large"], strict=True)]
    milliseconds = {name: 1000 * statistics.median(own) / TIMED for name, own in times.items()}
    return {"milliseconds": milliseconds, "ratio": spread(ratios), "passed": float(passed)}


def rounded(split: dict[str, Any]) -> dict[str, Any]:
    """Five digits: there are thousands of splits."""
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in split.items()}


def measured(
    what: str, pair: tuple[Any, Any], pixels: Tensor, labels: Tensor, seed: int | None, splits: int, rounds: int
) -> dict[str, Any]:
    """A part of the result: times, and for each number of images and promise every split."""
    answers = answers_of(*pair, pixels, labels)
    return {
        "what": what,
        "seed": seed,
        "images": len(labels),
        "times": times_of(*pair, answers, pixels, rounds),
        "choices": [
            {"chosen_on": count, "promise": promise,
             "splits": [rounded(judged(answers, count, promise, split)) for split in range(splits)]}
            for count in CHOSEN_ON["cifar10" if seed is None else "digits"]
            for promise in PROMISES
        ],
    }  # fmt: skip


def trained(recipe: Mapping[str, Any], seed: int, runs: str) -> Any:
    """A model of digits."""
    how = {"data": "digits", "augment": "none", "batch_size": 32, "keep": "last", "workers": 0, "device": "cpu"}
    name = "anchored" if recipe["anchored"] else "small"
    run = fit(Recipe(**how, **recipe, seed=seed, runs=runs, name=f"{name}-{seed}"), progress=False)
    return run.model.eval()


def of_digits(seed: int, splits: int, rounds: int) -> Iterator[dict[str, Any]]:
    """A small and an anchored network of a seed, and the anchored one twice."""
    parts = [data.load("digits", split) for split in ("val", "test")]
    pixels, labels = (torch.cat([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    with tempfile.TemporaryDirectory(prefix="kedge-cascade-") as runs:
        small, large = (trained(recipe, seed, runs) for recipe in (SMALL, LARGE))
    count = large.count()
    pairs = {"digits": (small, large), f"digits, one of {count} references first": (folded(large), large)}
    for what, pair in pairs.items():
        yield measured(what, pair, pixels, labels, seed, splits, rounds)


def tables(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """What was promised and what came out; what it costs."""
    rows, costs = [], []
    for what in dict.fromkeys(part["what"] for part in parts):
        own = [part for part in parts if part["what"] == what]
        for choice in own[0]["choices"]:
            same = [each for part in own for each in part["choices"]
                    if (each["chosen_on"], each["promise"]) == (choice["chosen_on"], choice["promise"])]  # fmt: skip
            rows.append(
                [what, choice["chosen_on"], *_row(choice["promise"], [s for each in same for s in each["splits"]])]
            )
        middle = {name: [part["times"]["milliseconds"][name] for part in own] for name in ("small", "large", "cascade")}
        ratios = [part["times"]["ratio"] for part in own]
        costs.append([
            what, *(f"{statistics.median(each):.2f}" for each in middle.values()),
            f"{100 * statistics.median(part['times']['passed'] for part in own):.0f} %",
            f"{statistics.median(r['median'] for r in ratios):.2f} "
            f"({min(r['low'] for r in ratios):.2f} to {max(r['high'] for r in ratios):.2f})",
        ])  # fmt: skip
    return [
        table(
            "What was promised, and what came out on the other images",
            ["images", "chosen on", "allowed", "certainty", "small, %", "large, %", "cascade, %", "lost, points",
             "wrong among the small, %", "passed on, %", "kept, % of choices", "no rule"],
            rows,
            f"Means over {SPLITS} splits, of digits for each of {SEEDS} trainings; in brackets where nine of ten lie; "
            "of what was kept the 95 % interval of a share of so many choices, as if they were independent. Kept is "
            "what the other images show, of which digits have 359: what is lost there is a matter of a few images, "
            "by chance too. No rule: choices where none kept what was allowed.",
        ),
        table("Milliseconds an image", ["images", "small", "large", "cascade", "passed on", "cascade of large"], costs,
              "Batches of 32, one thread, the three in turn; the rule loses at most half a point on all images."),
    ]  # fmt: skip


def _row(promise: Mapping[str, float], splits: Sequence[Mapping[str, Any]]) -> list[str]:
    """Cells of a promise over splits."""
    chosen = [split for split in splits if split["cascade"] is not None]
    allowed = [f"{100 * promise['max_loss']:g} points lost"] if "max_loss" in promise else []
    allowed += [f"{100 * promise['max_risk']:g} % wrong"] if "max_risk" in promise else []
    certainty = f"{promise['certainty']:g}" if "certainty" in promise else ""
    alone = [f"{100 * statistics.fmean(split[name] for split in splits):.1f}" for name in ("small", "large")]
    none = f"{len(splits) - len(chosen)} of {len(splits)}" if len(chosen) < len(splits) else ""
    if not chosen:
        return [", ".join(allowed), certainty, *alone, "", "", "", "", "", none]
    kept = sum(split["kept"] for split in chosen)
    low, high = accuracy_interval(kept, len(chosen))
    cells = [f"{100 * statistics.fmean(split['cascade'] for split in chosen):.1f}"]
    cells += [_range([100 * split[name] for split in chosen], places) for name, places in
              (("lost", 2), ("risk", 1), ("passed", 0))]  # fmt: skip
    share = f"{100 * kept / len(chosen):.0f} ({100 * low:.0f} to {100 * high:.0f})"
    return [", ".join(allowed), certainty, *alone, *cells, share, none]


def _range(values: Sequence[float], places: int) -> str:
    """Mean, and where nine of ten lie."""
    low, high = torch.tensor(values, dtype=torch.float64).quantile(torch.tensor([0.05, 0.95]).double()).tolist()
    return f"{statistics.fmean(values):.{places}f} ({low:.{places}f} to {high:.{places}f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure the parts that the result lacks."""
    made = common("cascade", __doc__, rounds=9, quick=2)
    made.add_argument("--parts", default="digits,cifar10", help="digits, cifar10")
    args: argparse.Namespace = options(made, [*(sys.argv[1:] if arguments is None else arguments)])
    torch.set_num_threads(args.threads or 1)
    splits, seeds = (5, 1) if args.quick else (SPLITS, SEEDS)
    settings = {
        "splits": splits, "promises": [dict(each) for each in PROMISES], "small": SMALL, "large": LARGE,
        "chosen_on": {name: list(own) for name, own in CHOSEN_ON.items()},
    }  # fmt: skip
    there = args.out is not None and args.out.is_file()
    before = json.loads(args.out.read_text(encoding="utf-8")) if there else {}
    parts = list(before.get("parts", [])) if before.get("settings") == settings else []
    done = {part["seed"] for part in parts}  # none: CIFAR-10

    def add(new: dict[str, Any]) -> None:
        parts.append(new)
        write(args, (), tables(parts), settings=settings, parts=parts)
        print(f"{new['what']}, seed {new['seed']}", file=sys.stderr, flush=True)

    for seed in range(seeds if "digits" in args.parts else 0):
        if seed not in done:
            for new in of_digits(seed, splits, args.rounds):
                add(new)
    if "cifar10" in args.parts and None not in done:
        images = data.load("cifar10", "test")
        pixels = torch.cat([part for part, _ in images.batches(1000)])
        pair = (published("cifar10_resnet20"), published("cifar10_resnet56"))
        add(measured("CIFAR-10, ResNet-20 and -56", pair, pixels, images.labels, None, splits, args.rounds))
    # The thousands of splits are left out in the end: the command makes them again.
    return finish(args, (), tables(parts), settings=settings)


if __name__ == "__main__":
    raise SystemExit(main())
