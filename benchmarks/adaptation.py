"""Networks trained on CIFAR-10, taken to other tasks: five ways, 1, 5, 20 images of each class and all of them.

    KEDGE_DATA=path/to/packs python -m benchmarks.adaptation --runs runs

Bodies: a standard, an anchored and a masked network, three seeds each, from --runs; missing ones are trained as
`benchmarks.cifar10_small` does. Tasks, both in the 32 px that the bodies take: trashnet160 (six classes, its own test
split), and the 10,000 images of the CIFAR-100 *test* split, as no training split is at hand: one stratified half to
train on, the other to test on, so its figures are not comparable with published ones. Body s is paired with draw s of
the few images, so the spread is over bodies and draws together. Anchored models predict with one reference.

Finished parts are kept in --work; the result is written after each body.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import kedge
from benchmarks.cifar10_small import VARIANTS
from benchmarks.conversion import RESULTS, trained
from benchmarks.side_by_side import command, lines, table
from kedge import data
from kedge.adaptation import HOWS, Settings, study
from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.procedures._study import spread
from kedge.training import Recipe
from kedge.training.recipe import load_recipe

SHIFT = ("gaussian_noise", "defocus_blur", "fog", "pixelate")  # one of each kind
SEVERITY = 3
# What the run folders of a body may be called.
BODIES = {"standard": ("standard",), "anchored": ("anchored",), "masked": ("masked-uniform-sample", "masked")}
RECIPE = {"data": "cifar10", "model": "kedge_resnet_small", "arguments": {"width": 16}, "epochs": 5}
TASKS = {"trashnet160": "trashnet160, 6 classes", "cifar100": "halves of the CIFAR-100 test split, 100 classes"}
OBJECTIVES = {kind: VARIANTS[kind].get("objective") for kind in BODIES}


def found_body(kind: str, seed: int, runs: Path) -> Path | None:
    """The run folder of a body that is there."""
    places = (runs / f"{name}-{seed}" for name in BODIES[kind])
    return next((place for place in places if (place / "model" / "config.json").is_file()), None)


def check_bodies(kinds: Sequence[str], seeds: int, runs: Path) -> None:
    """ValueError if some bodies are in `runs` and others would be trained: one table would mix two networks.

    Those that this script trained, or was broken off in, are of one network and count as none.
    """
    wanted = {f"{kind}-{seed}": found_body(kind, seed, runs) for kind in kinds for seed in range(seeds)}
    missing = [name for name, place in wanted.items() if place is None]
    given = [str(place) for place in wanted.values() if place is not None and not _own(place)]
    if missing and given:
        raise ValueError(
            f"--runs {runs} holds {', '.join(given)}, but not {', '.join(missing)}: training these here would mix "
            "networks in one table; add them, ask for fewer --seeds, or name an empty folder to train all"
        )


def _own(place: Path) -> bool:
    """Whether the network and the epochs are those that `body` trains."""
    recipe = load_recipe(place / "recipe.yaml")
    return (recipe.model, recipe.arguments, recipe.epochs) == (RECIPE["model"], RECIPE["arguments"], RECIPE["epochs"])


def body(kind: str, seed: int, runs: Path) -> Path:
    """The run folder of a body; trained if there is none."""
    if (found := found_body(kind, seed, runs)) is not None:
        return found
    made = Recipe.from_dict({**RECIPE, "seed": seed, "runs": str(runs), "name": f"{kind}-{seed}", **VARIANTS[kind]})
    return trained(made, progress=False, report=False).folder


def sets(task: str, seed: int, most: int | None) -> tuple[Any, Any, Any]:
    """Training, validation and test images of a task, in 32 px; the halves are the same for all bodies."""
    if task == "cifar100":
        whole = data.load("cifar100", "test")
        train, test = data.split_validation(whole, 0.5, seed=data.derive_seed(0, "test"))
    else:
        train, test = data.load(task, "train", image_size=32), data.load(task, "test", image_size=32)
    train, val = data.split_validation(train, 0.1, seed=seed)
    return train, val, test if most is None else test.subset(range(min(most, len(test))))


def tables(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each task: accuracy in and out of distribution and ECE, ways down, bodies across; and against standard."""
    made = []
    kinds = [kind for kind in BODIES if any(row["body"] == kind for row in rows)]
    for task, words in TASKS.items():
        for key, what in (("accuracy", "accuracy"), ("shifted accuracy", "accuracy under corruption"), ("ece", "ECE")):
            cells = []
            for how, shots in dict.fromkeys((r["how"], r["shots"]) for r in rows if r["task"] == task):
                own = {k: _values(rows, task, k, how, shots, key) for k in kinds}
                line = [how, "all" if shots is None else shots, *(spread(list(own[k].values())) for k in kinds)]
                for kind in kinds[1:]:
                    pairs = [own[kind][s] - own["standard"][s] for s in own[kind] if s in own["standard"]]
                    line.append(spread(pairs, "+"))
                cells.append(line)
            if cells:
                head = ["how", "shots", *kinds, *(f"{kind} less standard" for kind in kinds[1:])]
                made.append(table(f"{words}: {what}, %", head, cells))
    return made


def _values(rows: list[dict[str, Any]], task: str, kind: str, how: str, shots: Any, key: str) -> dict[int, float]:
    wanted = (task, kind, how, shots)
    found = [r for r in rows if (r["task"], r["body"], r["how"], r["shots"]) == wanted]
    return {r["seed"]: 100 * r[key] for r in found}


def main() -> None:
    """Adapt, measure, write the JSON after each body, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the bodies are, or are trained")
    parser.add_argument("--work", type=Path, default=Path("runs/adaptation"), help="where the adapted models are kept")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--limit", type=int, default=500, help="test images under corruption")
    parser.add_argument(
        "--epochs", type=int, default=None, help="of fine-tuning, few shots too; default as kedge adapt"
    )
    parser.add_argument(
        "--all_epochs",
        type=int,
        default=None,
        help="of fine-tuning on all images alone: few shots keep the hundred steps at least that they have by default",
    )
    parser.add_argument("--quick", action="store_true", help="one body, few images: does it run?")
    parser.add_argument("--out", type=Path, default=None, help="default benchmarks/results/adaptation.json")
    args = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", torch.get_num_threads())))
    shots: list[int | None] = [1, 5, 20, None]
    kinds, most = list(BODIES), None
    if args.quick:
        args.seeds, args.tasks, args.limit, shots, kinds, most = 1, ["trashnet160"], 50, [1], ["masked"], 100
        args.work = args.work / "quick"
    out = args.out or (None if args.quick else RESULTS / "adaptation.json")
    check_bodies(kinds, args.seeds, args.runs)
    rows: list[dict[str, Any]] = []
    bodies: dict[str, Any] = {}
    record: dict[str, Any] = {}
    for seed in range(args.seeds):
        for task in args.tasks:
            train, val, test = sets(task, seed, most)
            for kind in kinds:
                began = time.perf_counter()
                folder = body(kind, seed, args.runs)
                model = kedge.load(folder)
                facts = json.loads((folder / "run.json").read_text(encoding="utf-8"))
                made = getattr(model.network, "kedge_architecture", {})
                bodies[f"{kind}-{seed}"] = {"network": made, "validation": facts.get("validation")}
                settings = Settings(
                    seed=seed, references=1, objective=OBJECTIVES[kind], source=folder.name, data=task,
                    epochs=args.epochs,
                )  # fmt: skip
                whole = replace(settings, epochs=args.all_epochs or args.epochs)
                for counts, chosen in (([n for n in shots if n], settings), ([n for n in shots if n is None], whole)):
                    if counts:  # the second adds its rows to those of the first
                        found = study(
                            model, train, val, test, args.work / f"{task}-{folder.name}", hows=HOWS, shots=counts,
                            settings=chosen, shift=SHIFT, severities=(SEVERITY,), limit=args.limit,
                            say=lambda words: print(words, file=sys.stderr, flush=True),
                        )  # fmt: skip
                rows += [{"task": task, "body": kind, "seed": seed, **row} for row in found["rows"]]
                print(f"{task}, {folder.name}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
                record = {
                    "name": "adaptation",
                    "command": command("adaptation"),
                    "created": now(),
                    "machine": machine(),
                    "load": os.getloadavg()[0],
                    "device": "cpu",
                    "bodies": bodies,
                    "tasks": TASKS,
                    "corruptions": {"names": SHIFT, "severity": SEVERITY, "images": args.limit, "made by": "kedge"},
                    "measured": rows,
                    "rows": [],
                    "tables": tables(rows),
                }
                if out is not None:
                    write_text(out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(lines(record)))


if __name__ == "__main__":
    main()
