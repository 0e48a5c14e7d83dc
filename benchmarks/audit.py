"""How many planted faults an audit finds, and how much of what it says is planted; and what learning curves foretell.

    KEDGE_DATA=path/to/packs python -m benchmarks.audit --weights tf_efficientnet_lite0.safetensors --out audit.json

Faults are those of `planted_faults`. Digits are judged by features of the pixels, the photos of ants and bees by those
of a published network; of the photos of waste only copies and looks are judged, without a network. Recall is the share
of planted faults that are named, precision the share of what is named that was planted: a lower bound, as the sets have
faults of their own. Where cleanvision can be imported, what it names on the same folders stands beside it.

A learning curve on a quarter or a half of the training images foretells the accuracy with all of them, which is then
measured on the same test images.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.planted_faults import KINDS, plant
from kedge.auditing import gather, learning_curve, look, near_duplicates, reduced
from kedge.auditing.findings import of_heads, of_looks, of_pairs
from kedge.auditing.pixel_features import pixel_features
from kedge.auditing.subsampled import subsampled
from kedge.auditing.whole import steps_for
from kedge.data.near import groups
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.seeds import generator

RESULTS = Path(__file__).parent / "results"
SETS = {"digits": "pixels", "ants_bees256": "network", "trashnet160": None}
CURVES = {"digits": "pixels", "fashion_mnist": "pixels", "ants_bees256": "network"}
SEEDS = (0, 1, 2)
_cache: dict[bytes, Tensor] = {}  # features by what is in a file: most images are the same with every seed


def network_features(pool: Any, keys: list[bytes], weights: str) -> Tensor:
    """What the last layer of the published network reads, `[N, 1280]`."""
    from kedge.cli.resolve_model import find
    from kedge.probing.features import features

    new = [i for i, key in enumerate(keys) if key not in _cache]
    if new:
        model = find("timm/tf_efficientnet_lite0").load("cpu", weights)
        part = type(pool)(pool.name, pool.parts, pool.class_names, (), tuple(pool.places[i] for i in new))
        rows = torch.cat([features(model, "classifier", images, 32) for images in part.sets(model.input_shape)])
        _cache.update({keys[i]: row for i, row in zip(new, rows, strict=True)})
    return torch.stack([_cache[key] for key in keys])


def judged(named: set[str], planted: set[str]) -> dict[str, float | int | None]:
    """How many are planted and named, recall and precision."""
    both = len(named & planted)
    return {
        "planted": len(planted),
        "named": len(named),
        "recall": both / len(planted) if planted else None,
        "precision": both / len(named) if named else None,
    }


def one_set(name: str, features: str | None, seed: int, folder: Path, weights: str) -> dict[str, Any]:
    """Recall and precision of each kind of fault."""
    faults, began = plant(name, folder, seed), time.process_time()
    looks, pool = look(gather(str(folder)))
    file = [str(Path(pool.file(i)).relative_to(folder)) for i in range(len(pool))]
    pairs, _ = near_duplicates(looks)
    named = [(f, file[f.image]) for f in of_pairs(pairs, pool) if f.image is not None]
    across = {
        (path, file[f.partner]) for f, path in named if f.kind == "copy across the split" and f.partner is not None
    }
    copies = {(copy, original) for copy, (original, _) in faults["copies"].items()}
    rows: dict[str, Any] = {
        "images": len(pool),
        "copies across the split": judged({"|".join(p) for p in across}, {"|".join(p) for p in copies}),
    }
    for kind in KINDS:
        own = {"|".join((copy, original)) for copy, (original, how) in faults["copies"].items() if how == kind}
        rows[f"copies: {kind}"] = {"planted": len(own), "recall": judged({"|".join(p) for p in across}, own)["recall"]}
    for kind in ("dark", "blurred"):
        rows[kind] = judged(
            {file[f.image] for f in of_looks(looks, pool) if f.kind == kind and f.image is not None}, set(faults[kind])
        )
    if features is not None:
        raw = pixel_features(looks) if features == "pixels" else network_features(pool, looks.keys, weights)
        together = groups(pairs, len(pool))
        heads = subsampled(
            reduced(raw), pool.labels, len(pool.class_names), groups=together, steps=steps_for(len(pool)), seed=seed
        )
        said, wrong = of_heads(heads, pool, 0.02), set(faults["wrong"])
        for kind in ("wrong label", "memorised", "hard"):
            rows[f"wrong labels among: {kind}"] = judged(
                {file[f.image] for f in said if f.kind == kind and f.image is not None}, wrong
            )
        own = {file[f.image]: f.words for f in said if f.kind == "wrong label" and f.image is not None}
        hit = [own[path] == f"rather {true}" for path, true in faults["wrong"].items() if path in own]
        rows["right class named"] = {"recall": sum(hit) / len(hit) if hit else None}
        rows["accuracy on images left out"] = float((heads.apart.argmax(1) == pool.labels).double().mean())
    rows["seconds"] = time.process_time() - began
    rows["cleanvision"] = by_cleanvision(folder, faults)
    return rows


def by_cleanvision(folder: Path, faults: dict[str, Any]) -> dict[str, Any] | None:
    """The same of cleanvision with its defaults, which names images and groups of copies; None where it is not here."""
    try:
        from cleanvision import Imagelab
    except ImportError:
        return None
    began = time.process_time()
    lab = Imagelab(data_path=str(folder))
    lab.find_issues({"dark": {}, "blurry": {}, "exact_duplicates": {}, "near_duplicates": {}}, n_jobs=1, verbose=False)
    short = {path: str(Path(path).relative_to(folder.resolve())) for path in lab.issues.index}
    rows: dict[str, Any] = {}
    for ours, theirs in (("dark", "dark"), ("blurred", "blurry")):
        marked = lab.issues.index[lab.issues[f"is_{theirs}_issue"]]
        rows[ours] = judged({short[path] for path in marked}, set(faults[ours]))
    pairs = set()
    for kind in ("exact_duplicates", "near_duplicates"):
        for group in lab.info[kind]["sets"]:
            inside = [short[path] for path in group]
            pairs |= {(a, b) for a in inside for b in inside if a.startswith("test") and b.startswith("train")}
    rows["copies across the split"] = judged(
        {"|".join(p) for p in pairs}, {f"{c}|{o}" for c, (o, _) in faults["copies"].items()}
    )
    for kind in KINDS:
        own = {f"{c}|{o}" for c, (o, how) in faults["copies"].items() if how == kind}
        rows[f"copies: {kind}"] = {"planted": len(own), "recall": judged({"|".join(p) for p in pairs}, own)["recall"]}
    return {**rows, "seconds": time.process_time() - began}


def curve_of(name: str, features: str, weights: str) -> list[dict[str, Any]]:
    """What a quarter and a half of the training images foretell of all, for each seed, beside what all reach."""
    looks, pool = look(gather(name))
    raw = pixel_features(looks) if features == "pixels" else network_features(pool, looks.keys, weights)
    rows, labels, splits = reduced(raw), pool.labels, pool.splits
    chance = generator(0, "curve of", name)
    train = torch.tensor([i for i, split in enumerate(splits) if split == "train"])
    test = torch.tensor([i for i, split in enumerate(splits) if split == "test"])
    train, test = (
        part[torch.randperm(len(part), generator=chance)[:most]] for part, most in ((train, 4000), (test, 1000))
    )
    classes, told = len(pool.class_names), []
    for seed in SEEDS:
        order = train[torch.randperm(len(train), generator=generator(seed, "part"))]
        full = learning_curve(
            rows, labels, classes, train, test, shares=(1.0,), draws=4, by_class=False, seed=seed + 10
        )
        truth = full.accuracy()[0]
        for share in (0.25, 0.5):
            part = order[: round(share * len(order))]
            curve = learning_curve(rows, labels, classes, part, test, draws=4, by_class=False, seed=seed)
            mean, low, high = curve.expected(len(train), seed)
            told.append({
                "seed": seed, "share": share, "images": len(part), "there": curve.accuracy()[-1][0], "foretold": mean,
                "low": low, "high": high, "reached": truth[0], "inside": low <= truth[0] <= high,
            })  # fmt: skip
    return told


def summary(results: dict[str, Any]) -> list[str]:
    """The tables as Markdown: means over seeds."""
    text = [
        "| set | fault | planted | recall, % | precision, % | cleanvision: recall | precision |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, seeds in results["faults"].items():
        for kind in next(iter(seeds.values())):
            rows = [row[kind] for row in seeds.values()]
            if not isinstance(rows[0], dict) or kind == "cleanvision":
                continue
            theirs = [(row["cleanvision"] or {}).get(kind, {}) for row in seeds.values()]
            cells = [
                _mean(rows, "recall"),
                _mean(rows, "precision"),
                _mean(theirs, "recall"),
                _mean(theirs, "precision"),
            ]
            text.append(f"| {name} | {kind} | {rows[0].get('planted', '')} | {' | '.join(cells)} |")
    text += [
        "",
        "| set | from | at that part, % | foretold of all, % | interval | reached, % | inside |",
        "| --- | ---: | ---: | ---: | --- | ---: | --- |",
    ]
    for name, told in results["curves"].items():
        for row in told:
            at, to, low, high, reached = (100 * row[k] for k in ("there", "foretold", "low", "high", "reached"))
            inside = "yes" if row["inside"] else "no"
            foretold = f"{to:.1f} | {low:.1f} to {high:.1f}"
            text.append(f"| {name} | {row['images']} | {at:.1f} | {foretold} | {reached:.1f} | {inside} |")
    return text


def _mean(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row.get(key) is not None]
    return f"{100 * statistics.fmean(values):.0f}" if values else ""


def main() -> None:
    """Measure, print the tables and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--weights", required=True, help="of tf_efficientnet_lite0")
    parser.add_argument("--out", type=Path, default=RESULTS / "audit.json")
    parser.add_argument("--sets", nargs="*", default=list(SETS), help="of planted faults; a file's other rows stay")
    parser.add_argument("--curves", nargs="*", default=list(CURVES), help="of learning curves")
    options = parser.parse_args()
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    results: dict[str, Any] = {"faults": {}, "curves": {}}
    if options.out.is_file():
        results = json.loads(options.out.read_text())
    results["machine"] = machine()
    for name in options.sets:
        features = SETS[name]
        for seed in SEEDS:
            with tempfile.TemporaryDirectory(prefix="kedge-planted-") as folder:
                row = one_set(name, features, seed, Path(folder), options.weights)
            results["faults"].setdefault(name, {})[str(seed)] = row
            print(name, seed, json.dumps(row), flush=True)
            write_text(options.out, json.dumps(results, indent=1) + "\n")
    for name in options.curves:
        features = CURVES[name]
        results["curves"][name] = curve_of(name, features, options.weights)
        print(name, json.dumps(results["curves"][name]), flush=True)
        write_text(options.out, json.dumps(results, indent=1) + "\n")
    print("\n".join(summary(results)))


if __name__ == "__main__":
    main()
