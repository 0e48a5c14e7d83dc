"""How often kedge compare names the corruption that was there, and how often it sees one where there is none.

    KEDGE_DATA=path/to/packs python -m benchmarks.drift --weights path/to/cifar10_resnet20.safetensors

The model is a published ResNet-20 for CIFAR-10 that others trained. Of its test images, in a random order, the first
are the reference (and, with their labels, what the expected accuracy rests on); others, corrupted by each of the 19
corruptions at severities 1, 3 and 5 with other random numbers than the profiles, are the new images, all of them and
in smaller groups. Everything was set before it was run. Beside these: changes that are none of the 19, which should be
called none of them (the ten corruptions of C-bar at severity 3, other sets), and halves of images as they are, where
every drift that is seen is a false alarm.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import kedge
from benchmarks.side_by_side import command
from kedge import data, networks
from kedge.clock import now
from kedge.data.corruptions import CBAR, GROUPS, NAMES
from kedge.evaluation.drift import NONE, UNLIKE, joint_p
from kedge.evaluation.drift_profiles import Profiles
from kedge.evaluation.drift_seen import Asker, Embedding, Seen
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.metrics import (
    accuracy_interval,
    average_thresholded_confidence,
    average_thresholded_confidence_interval,
)
from kedge.metrics._two_samples import share_tests
from kedge.scores import Entropy

RESULTS = Path(__file__).parent / "results"
SEVERITIES = (1, 3, 5)  # that are asked about; profiles have all five
FAMILIES = ("noise", "blur", "weather", "digital", "extra")
PERMUTATIONS, ALPHA = 199, 0.01
SMALLER = 2  # groups of each smaller size


def published(weights: Path) -> Any:
    """The ResNet-20 with its trainer's normalisation."""
    network = networks.create("kedge_resnet20", 10)
    network.load_state_dict(load_file(weights))
    normalisation = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return kedge.plain(network.eval(), **normalisation, example=(3, 32, 32)).to(memory_format=torch.channels_last)


class Compared:
    """Reference images, and what is answered about new ones.

    Profiles are made anew for each case, as the components of features are those of both sets together.
    """

    def __init__(self, asker: Asker, images: torch.Tensor, profile: int) -> None:
        self.asker, self.reference = asker, asker.look(images)
        where = torch.arange(profile)
        self.profile = self.reference.at(where)
        self.corrupted = [
            asker.corrupted(images[:profile], name, severity, where, 0, 256)
            for name in NAMES
            for severity in (1, 2, 3, 4, 5)
        ]

    def answer(self, new: Seen) -> dict[str, Any]:
        """The name, the nearest corruption, its severity and what it leaves unexplained."""
        embed = Embedding(self.reference, new)
        ours, theirs = embed(self.reference), embed(new)
        p = joint_p(ours, theirs, PERMUTATIONS, 0)
        every = torch.stack([embed(each) for each in self.corrupted]).unflatten(0, (len(NAMES), 5))
        profiles = Profiles(embed(self.profile), every, [1, 2, 3, 4, 5])
        noise = 1 / len(ours) + 1 / len(theirs)
        nearest = profiles.nearest((theirs.mean(0) - ours.mean(0))[None], noise)
        limit, residual = profiles.simulate(0).limit, float(nearest.residual[0])
        corruption = NAMES[int(nearest.corruption[0])]
        named = NONE if p >= ALPHA else UNLIKE if residual > limit else corruption
        return {"p": p, "named": named, "nearest": corruption, "severity": float(nearest.severity[0]),
                "unexplained": residual}  # fmt: skip


def family(name: str) -> str:
    """The group of a corruption; what is none as it is."""
    return next((group for group in FAMILIES if name in GROUPS[group]), name)


def share(count: int, of: int) -> str:
    """A share in percent with its interval."""
    low, high = accuracy_interval(count, of)
    return f"{100 * count / of:.1f} [{100 * low:.1f}, {100 * high:.1f}]"


def named_table(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """By the number of new images: how often the name, its group and its severity are right."""
    rows = []
    for size in sorted({case["images"] for case in cases}, reverse=True):
        own = [case for case in cases if case["images"] == size]
        right = [case for case in own if case["named"] == case["corruption"]]
        off = [abs(case["severity"] - case["true_severity"]) for case in right]
        rows.append([
            size, len(own), share(len(right), len(own)),
            share(sum(family(case["named"]) == family(case["corruption"]) for case in own), len(own)),
            share(sum(case["named"] == UNLIKE for case in own), len(own)),
            share(sum(case["named"] == NONE for case in own), len(own)),
            f"{statistics.mean(off):.2f}" if off else "",
        ])  # fmt: skip
    return {
        "title": "New images of another corruption, severities 1, 3 and 5, %",
        "head": ["new images", "cases", "named rightly", "group named rightly", "called none of them",
                 "called no drift", "severity off by (where named rightly)"],
        "rows": rows,
        "note": "In brackets 95 % intervals (Wilson) over cases; cases share reference images, and photos.",
    }  # fmt: skip


def confusion(cases: list[dict[str, Any]], size: int, by_family: bool) -> dict[str, Any]:
    """What each corruption, or each group, was named."""
    what = family if by_family else str
    counts = Counter((what(case["corruption"]), what(case["named"])) for case in cases if case["images"] == size)
    true = list(FAMILIES) if by_family else list(NAMES)
    if by_family:
        answers = [name for name in (*true, UNLIKE, NONE) if any(counts[row, name] for row in true)]
        rows = [[row, *(counts[row, name] or "" for name in answers)] for row in true]
        return {"title": f"Groups: true (rows) and named, {size} new images", "head": ["", *answers], "rows": rows,
                "note": ""}  # fmt: skip
    rows = []
    for row in true:
        other = sorted(((name, n) for (truth, name), n in counts.items() if truth == row and name != row),
                       key=lambda each: -each[1])  # fmt: skip
        total = sum(n for (truth, _), n in counts.items() if truth == row)
        rows.append([row, f"{counts[row, row]} of {total}", ", ".join(f"{name} {n}" for name, n in other)])
    return {"title": f"Corruptions: how often named rightly, and what else they were called, {size} new images",
            "head": ["true", "named rightly", "else"], "rows": rows, "note": ""}  # fmt: skip


def accuracy_table(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Expected accuracy against the true one, by severity."""
    rows = []
    for severity in (*SEVERITIES, None):
        own = [case for case in cases if "expected" in case and severity in (None, case["true_severity"])]
        off = [100 * (case["expected"]["value"] - case["accuracy"]) for case in own]
        inside = sum(case["expected"]["low"] <= case["accuracy"] <= case["expected"]["high"] for case in own)
        rows.append([
            "all" if severity is None else severity, len(own),
            f"{100 * statistics.mean(case['accuracy'] for case in own):.1f}",
            f"{100 * statistics.mean(case['expected']['value'] for case in own):.1f}",
            f"{statistics.mean(map(abs, off)):.1f}", f"{max(off, key=abs):+.1f}", f"{inside} of {len(own)}",
        ])  # fmt: skip
    return {"title": "Expected accuracy (thresholded entropy) against the true one",
            "head": ["severity", "sets", "true, %", "expected, %", "mean error, points", "worst, points",
                     "true one inside the interval"],
            "rows": rows, "note": "The interval is of sampling alone."}  # fmt: skip


def false_alarms(seen: Seen, sizes: list[int], splits: int) -> dict[str, Any]:
    """How often images as they are, divided at random, are said to have drifted."""
    draws, rows = torch.Generator().manual_seed(0), []
    for size in sizes:
        looks, answers = [], []
        for each in range(splits):
            order = torch.randperm(len(seen), generator=draws)
            a, b = seen.at(order[:size]), seen.at(order[size : 2 * size])
            embed = Embedding(a, b)
            looks.append(joint_p(embed(a), embed(b), PERMUTATIONS, each))
            ours, theirs = (part.outputs.logits.argmax(1) for part in (a, b))
            answers.append(share_tests(ours, theirs, 10, PERMUTATIONS, each)[0])
        for what, found in (("look", looks), ("answers", answers)):
            counts = [share(sum(p < level for p in found), splits) for level in (0.01, 0.05)]
            rows.append([f"{size} and {size}", what, splits, *counts])
    return {"title": "False alarms: images as they are, divided at random, %",
            "head": ["images", "test of", "divisions", "drift at alpha 0.01", "drift at alpha 0.05"], "rows": rows,
            "note": "The divisions are of one pool of images, so they are not independent."}  # fmt: skip


def others_table(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """What changes that are none of the nineteen were called."""
    rows = [[case["corruption"], case["named"], case["nearest"], f"{100 * case['unexplained']:.0f}"] for case in cases]
    unlike = sum(case["named"] == UNLIKE for case in cases)
    return {"title": f"Changes that are none of the nineteen: {unlike} of {len(cases)} are called none of them",
            "head": ["change", "called", "nearest", "left unexplained by it, %"], "rows": rows, "note": ""}  # fmt: skip


def main() -> None:
    """Measure, print the tables, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="cifar10_resnet20.safetensors")
    parser.add_argument("--reference", type=int, default=1000, help="reference images")
    parser.add_argument("--profile", type=int, default=200, help="of these, images that are corrupted for the profiles")
    parser.add_argument("--images", type=int, default=400, help="new images")
    parser.add_argument("--groups", type=int, nargs="*", default=[100, 25], help="sizes of smaller groups of these")
    parser.add_argument("--splits", type=int, default=1000, help="divisions for false alarms")
    parser.add_argument("--quick", action="store_true", help="few images and corruptions: does it run?")
    parser.add_argument("--out", type=Path, default=RESULTS / "drift.json")
    args = parser.parse_args()
    if args.quick:
        args.reference, args.profile, args.images, args.groups, args.splits = 100, 40, 40, [20], 5
    began, say = time.perf_counter(), lambda words: print(words, file=sys.stderr, flush=True)
    test = data.load("cifar10", "test")
    order = torch.randperm(len(test), generator=torch.Generator().manual_seed(0))
    first, second, pool = order.split([args.reference, args.images, len(order) - args.reference - args.images])[:3]
    asker = Asker(published(args.weights), test)
    compared = Compared(asker, test.images[first] / 255, args.profile)
    say(f"profiles: {time.perf_counter() - began:.0f} s")
    source, right = Entropy().score(compared.reference.outputs), (
        compared.reference.outputs.logits.argmax(1) == test.labels[first])  # fmt: skip
    shown, labels = test.images[second] / 255, test.labels[second]
    cases: list[dict[str, Any]] = []
    names = NAMES[:3] if args.quick else NAMES
    for name in names:
        for severity in SEVERITIES:
            seen = asker.corrupted(shown, name, severity, second, 1, 256)
            true = {"corruption": name, "true_severity": severity}
            scores = Entropy().score(seen.outputs)
            low, high = average_thresholded_confidence_interval(source, right, scores, n=500)
            expected = {"value": float(average_thresholded_confidence(source, right, scores)), "low": low, "high": high}
            accuracy = float((seen.outputs.logits.argmax(1) == labels).double().mean())
            cases.append({**true, "images": len(seen), **compared.answer(seen), "accuracy": accuracy,
                          "expected": expected})  # fmt: skip
            for size in args.groups:
                for part in torch.arange(len(seen)).split(size)[:SMALLER]:
                    cases.append({**true, "images": size, **compared.answer(seen.at(part))})
        say(f"{name}: {time.perf_counter() - began:.0f} s")
    others = []
    for name in CBAR[:2] if args.quick else CBAR:
        seen = asker.corrupted(shown, name, 3, second, 1, 256)
        others.append({"corruption": f"{name}, severity 3", **compared.answer(seen)})
    for name in ("cifar100", "tiny_imagenet32_jpeg"):
        images = data.load(name, "test", image_size=32).images[: args.images] / 255
        others.append({"corruption": f"other images: {name}", **compared.answer(asker.look(images))})
    many = 2 * max(args.images, *args.groups)
    clean = asker.look(test.images[pool[: 2 * many]] / 255)
    alarms = false_alarms(clean, [args.images, *args.groups[:1]], args.splits)
    say(f"all: {time.perf_counter() - began:.0f} s")
    tables = [
        named_table(cases),
        confusion(cases, args.images, by_family=True),
        confusion(cases, args.images, by_family=False),
        *([confusion(cases, args.groups[0], by_family=False)] if args.groups else []),
        others_table(others),
        alarms,
        accuracy_table(cases),
    ]
    record = {
        "name": "drift",
        "command": command("drift"),
        "created": now(),
        "machine": machine(),
        "load": os.getloadavg()[0],
        "device": "cpu",
        "settings": {"reference": args.reference, "profile": args.profile, "images": args.images,
                     "groups": args.groups, "splits": args.splits, "alpha": ALPHA, "permutations": PERMUTATIONS},
        "seconds": time.perf_counter() - began,
        "cases": cases,
        "others": others,
        "rows": [],
        "tables": tables,
    }  # fmt: skip
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(json.dumps(tables, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
