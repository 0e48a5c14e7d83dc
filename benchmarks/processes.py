"""Two processes train as one: the largest difference between their weights and statistics after two epochs of training.

    python -m benchmarks.processes

Each case is trained by one process and by two (gloo, on the CPU), with `sync` and without it, and once more by one
process with torch's own kernels in place of oneDNN's: what rounding alone does. All have a last batch that does not
divide. Nothing is timed. Two processes may differ from one by 1e-5, or by twice what rounding does: an attack that
follows the sign of a gradient would turn that of a value near zero into a step, so attacks climb in l2 here, whose
steps are continuous; `tests/objectives/test_whole_batch.py` has all of them in float64.
"""

import argparse
import json
import logging
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.clock import now
from kedge.evaluation.provenance import machine

RESULT = Path(__file__).parent / "results" / "processes.json"
PAGE = Path(__file__).parents[1] / "docs" / "processes.md"
LIMIT = 1e-5
PGD = {"PGD": {"eps": 0.5, "steps": 3, "norm": "l2"}}
MASKED = {"Anchored": {"alpha": 0.25}}
PLAIN: dict[str, Any] = {"objective": ["CrossEntropy"]}
# Name to: the norm of the network, whether it is anchored, what the recipe says.
CASES: dict[str, tuple[str, bool, dict[str, Any]]] = {
    "batch norm": ("batch", False, PLAIN),
    "group norm": ("group", False, PLAIN),
    "moving average of the weights": ("batch", False, {**PLAIN, "ema": 0.9}),
    "clipped gradients, AdamW": ("batch", False, {**PLAIN, "clip": 0.1, "optimizer": "adamw", "lr": 1e-3}),
    "SAM": ("batch", False, {**PLAIN, "optimizer": [{"sam": {"rho": 0.05}}, "sgd"]}),
    "OrthoGrad": ("batch", False, {**PLAIN, "optimizer": ["orthograd", "sgd"]}),
    "classes drawn equally often": ("batch", False, {**PLAIN, "sampler": "class-balanced"}),
    "class weights": ("batch", False, {**PLAIN, "class_weights": "balanced"}),
    "mixup": ("batch", False, {"objective": ["Mixup", "CrossEntropy"]}),
    "cutmix": ("batch", False, {"objective": ["CutMix", "CrossEntropy"]}),
    "TrivialAugment": ("batch", False, {**PLAIN, "augment": "trivial"}),
    "anchored": ("batch", True, {"objective": [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]}),
    "anchored, masked per sample": ("batch", True, {"objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]}),
    "anchored, masked per batch": (
        "batch", True, {"objective": [{"Anchored": {"alpha": 0.25, "mask_per": "batch"}}, "CrossEntropy"]}
    ),
    "attacked": ("batch", False, {"objective": [{"Adversarial": {"attack": PGD}}, "CrossEntropy"]}),
    "anchored, TRADES": ("batch", True, {"objective": [{"TRADES": {"attack": PGD}}, "CrossEntropy"]}),
    "outliers, distilled": ("group", False, {"objective": ["OutlierExposure", "Distill", "CrossEntropy"]}),
    "photos": ("batch", True, {"objective": [{"Anchored": {"alpha": 0.25}}, "CrossEntropy"]}),
    "photos, outliers, features": (
        "batch",
        True,
        {"objective": [MASKED, "OutlierExposure", {"FeatureDistill": {"layer": "2"}}, "CrossEntropy"]},
    ),
    "one validation image": ("batch", False, PLAIN),
}  # fmt: skip


def network(norm: str, channels: int) -> nn.Module:
    """A small convolutional network with batch or group norm, the same in every process."""
    torch.manual_seed(0)
    bias = norm != "batch"  # whose gradient would be nothing but rounding

    def layer(width: int) -> nn.Module:
        return nn.BatchNorm2d(width) if norm == "batch" else nn.GroupNorm(2, width)

    return nn.Sequential(
        nn.Conv2d(channels, 8, 3, padding=1, bias=bias), layer(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1, bias=bias), layer(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def photos(folder: Path, count: int = 52) -> Path:
    """A folder of JPEG files of 72 px in four classes."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for i in range(count):
        path = folder / "photos" / "abcd"[i % 4] / f"{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        small = torch.randint(256, (9, 9, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(small.numpy()).resize((72, 72)).save(path)
    return folder / "photos"


def images_of(case: str, folder: Path) -> tuple[Any, Any]:
    """Training and validation images of a case: 107 digits, or 41 photos; of either the last batch is uneven."""
    from kedge import data

    if case.startswith("photos"):
        every = data.load(folder / "photos")
        return every.subset(range(41)), every.subset(range(41, len(every)))
    digits = data.load("digits").only_classes(["0", "1", "2", "3"])
    skewed = [i for i, label in enumerate(digits.labels.tolist()) if label < 2 or i % 3 == 0][:107]
    val = data.load("digits", "val").only_classes(["0", "1", "2", "3"])
    return digits.subset(skewed), val.subset(range(1 if case == "one validation image" else 33))


def beside(case: str, images: Any) -> dict[str, Any]:
    """What an objective of a case needs beside images: outliers, as many as 11 of the images, and a teacher."""
    import kedge

    _, _, keys = CASES[case]
    if "OutlierExposure" not in keys["objective"]:
        return {}
    teacher = kedge.plain(network("group", images.image_shape[0]), example=images.image_shape)
    return {"extra": {"outliers": images.subset(range(11))}, "models": {"teacher": teacher}}


def train(case: str, folder: Path, name: str, **changes: Any) -> dict[str, Tensor]:
    """Train a case in the working folder's `runs`; gives all tensors of its checkpoint and the last validation."""
    import kedge
    from kedge.training import Recipe, fit

    norm, anchored, keys = CASES[case]
    sets = images_of(case, folder)
    shape = sets[0].image_shape
    start = (kedge.anchor if anchored else kedge.plain)(network(norm, shape[0]), example=shape)
    if anchored:
        start.references = torch.rand(4, *shape, generator=torch.Generator().manual_seed(1))
    batch = 16 if case.startswith("photos") else 32
    recipe = {"epochs": 2, "batch_size": batch, "optimizer": "sgd", "lr": 0.05, "device": "cpu", "workers": 0}
    fields = {**recipe, "val_pgd_steps": 0, **keys, **changes, "name": name, "runs": str(folder / "runs")}
    result = fit(
        Recipe.from_dict(fields), sets=sets, start=start, progress=False, report=False, **beside(case, sets[0])
    )
    if os.environ.get("RANK", "0") != "0":
        return {}
    state = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    row = result.history[-1]
    numbers = {key: torch.tensor(row[key]) for key in ("train_loss", "val_nll", "val_accuracy", "val_ece")}
    return {
        **{key: value for key, value in state.items() if key.startswith(("model.", "ema.", "objective."))},
        **numbers,
    }


def difference(one: dict[str, Tensor], other: dict[str, Tensor]) -> float:
    """The largest absolute difference between tensors of the same names."""
    assert one.keys() == other.keys()
    return max(float((value.double() - other[key].double()).abs().max()) for key, value in one.items())


def part(folder: Path, cases: Sequence[str], syncs: Sequence[bool]) -> None:
    """What each of two processes does: train all cases, and leave what the first one got."""
    states = {}
    for case in cases:
        for sync in syncs:
            state = train(case, folder, f"{case} {sync}", devices=2, sync=sync)
            states[case, sync] = state
    if os.environ["RANK"] == "0":
        torch.save(states, folder / "two.pt")


def compared(folder: Path, cases: Sequence[str], syncs: Sequence[bool] = (True, False)) -> list[dict[str, Any]]:
    """A row for each case: name and largest difference, with `sync` and without."""
    photos(folder)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "benchmarks.processes", "--part", str(folder), "--only", *cases]
    command += [] if False in syncs else ["--synced"]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    two = torch.load(folder / "two.pt", weights_only=True)
    rows = []
    for case in cases:
        alone = train(case, folder, f"{case} alone")
        with torch.backends.mkldnn.flags(enabled=False):  # type: ignore[no-untyped-call]
            rounded = train(case, folder, f"{case} rounded")
        row = {("sync" if sync else "own"): difference(alone, two[case, sync]) for sync in syncs}
        rows.append({"case": case, **row, "rounding": difference(alone, rounded)})
    return rows


def as_table(rows: Sequence[dict[str, Any]]) -> str:
    """The table in Markdown."""
    lines = ["| two processes against one | difference | rounding | `sync` off |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {row['case']} | {row['sync']:.1e} | {row['rounding']:.1e} | {row['own']:.1e} |" for row in rows]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare, print, write the JSON; the exit status says whether two were one."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.processes", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=tuple(CASES), default=tuple(CASES), metavar="CASE")
    parser.add_argument("--part", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--synced", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", message=".*has no name in timm")
    logging.getLogger("kedge").setLevel(logging.ERROR)
    if args.part is not None:
        part(args.part, args.only, (True,) if args.synced else (True, False))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        rows = compared(Path(folder), args.only)
    shown = as_table(rows)
    print(f"\n{shown}")
    if len(args.only) == len(CASES):
        RESULT.write_text(
            json.dumps(
                {
                    "command": "python -m benchmarks.processes",
                    "created": now(),
                    "machine": machine(),
                    "limit": LIMIT,
                    "rows": rows,
                },
                indent=1,
            )
            + "\n",
            encoding="utf-8",
        )
        page = PAGE.read_text(encoding="utf-8")
        marks = r"(<!-- processes: begin[^\n]*-->\n).*?(<!-- processes: end -->)"
        changed, count = re.subn(marks, lambda m: f"{m[1]}\n{shown}\n\n{m[2]}", page, flags=re.DOTALL)
        if count != 1:
            raise LookupError(f"{PAGE} has no marks <!-- processes: begin --> and <!-- processes: end -->")
        PAGE.write_text(changed, encoding="utf-8")
    return int(any(row["sync"] > max(LIMIT, 2 * row["rounding"]) for row in rows))


if __name__ == "__main__":
    sys.exit(main())
