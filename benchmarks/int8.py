"""What 8 bits change: published networks and networks of digits, by how many images the ranges are taken from.

    KEDGE_DATA=path/to/packs python -m benchmarks.int8 --weights path/to/weights

The published ones are ResNet-20 of CIFAR-10 and EfficientNet-Lite0 of ImageNet, whose weights lie in `--weights` as
safetensors; what is not there is left out. Those of digits are trained here, anchored, and folded. Each is exported,
quantised and compared with its float file as `kedge export --int8` does: calibrated on training images (of ImageNet, of
which there are test images alone, on others of those), compared on test images. Times are those of the processor, of
one core and batches of 32, the least of some runs, so that what else the machine does counts little.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import onnxruntime
import timm
import torch
from safetensors.torch import load_file

import kedge
from kedge import data, networks
from kedge.clock import now
from kedge.deploy import choose_folded, export, load_onnx, quantise
from kedge.evaluation.provenance import machine
from kedge.files import write_text
from kedge.training import fit

RESULTS = Path(__file__).parent / "results"
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
Case = tuple[str, Any, Any, Any, Sequence[int]]  # name, model, to calibrate on, held out, how many to calibrate on


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print a line each, and write int8.json."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.int8", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, default=Path("weights"))
    parser.add_argument("--seeds", type=int, default=1, help="networks of digits")
    parser.add_argument("--out", type=Path, default=RESULTS / "int8.json")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})  # onnxruntime's threads too
    rows = []
    for name, model, known, new, counts in [*digits(args.seeds), *published(args.weights)]:
        with tempfile.TemporaryDirectory() as folder:
            done = export(model, Path(folder) / "float.onnx")
            for count in counts:
                some = known.subset(range(0, len(known), max(1, len(known) // count))).subset(range(count))
                made = quantise(done.path, Path(folder) / "int8.onnx", some, new, bound=10)
                batch = next(iter(new.batches(32)))[0].float() / 255
                paces = [least_milliseconds(load_onnx(path), batch) for path in (done.path, made.path)]
                row = {"network": name, "calibration_images": count, **made.to_json(), "milliseconds": paces}
                rows.append(row)
                own = made.held_out
                print(
                    f"{name:<22}{count:>5} {made.size[0] / 1e6:7.3f} → {made.size[1] / 1e6:.3f} MB, same "
                    f"{own.same / own.images:.2%} of {own.images}, difference {own.difference:.4f} "
                    f"({made.calibration.difference:.4f} calibrated), right {own.accuracy[0]:.2%} → "
                    f"{own.accuracy[1]:.2%}, {paces[0]:.2f} → {paces[1]:.2f} ms",
                    flush=True,
                )
    record = {
        "name": "int8",
        "command": f"python -m benchmarks.int8 --weights weights --seeds {args.seeds}",
        "created": now(),
        "machine": machine(),
        "onnxruntime": onnxruntime.__version__,
        "rows": rows,
    }
    write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def least_milliseconds(model: Any, batch: torch.Tensor, runs: int = 15) -> float:
    """Milliseconds of the processor for an image."""
    times = []
    for _ in range(runs):
        began = time.process_time()
        model(batch)
        times.append((time.process_time() - began) / len(batch))
    return 1000 * min(times)


def digits(seeds: int) -> Iterator[Case]:
    """Anchored networks of digits, each folded with one reference."""
    known, new = data.load("digits", "train"), data.load("digits", "test")
    recipe = {
        "data": "digits", "model": "kedge_resnet_small", "arguments": {"width": 8}, "epochs": 6, "device": "cpu",
        "workers": 0, "references": 10, "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }  # fmt: skip
    for seed in range(seeds):
        with tempfile.TemporaryDirectory() as folder:
            result = fit({**recipe, "seed": seed, "runs": folder, "name": "digits"}, progress=False, report=False)
        model = result.model.cpu().eval()
        model.references = choose_folded(model, data.load("digits", "val")).reference
        yield f"digits, seed {seed}", model, known, new, (16, 64, 256)


def published(weights: Path) -> Iterator[Case]:
    """Networks that somebody else trained, where their weights are here."""
    for name in ("cifar10_resnet20",):
        if (file := weights / f"{name}.safetensors").is_file():
            network = networks.create(name.replace("cifar10", "kedge"), 10)
            network.load_state_dict(load_file(file))
            model = kedge.plain(network.eval(), **IMAGENET, example=(3, 32, 32)).eval()
            new = data.load("cifar10", "test").subset(range(0, 10_000, 5))
            yield name, model, data.load("cifar10", "train"), new, (16, 64, 256)
    if (file := weights / "tf_efficientnet_lite0.safetensors").is_file():
        network = timm.create_model("tf_efficientnet_lite0")
        network.load_state_dict(load_file(file))
        model = kedge.plain(network.eval(), mean=(0.5,) * 3, std=(0.5,) * 3, example=(3, 224, 224)).eval()
        images = data.load("imagenet_sample256", "test", 224, 3)
        whole = torch.arange(len(images))
        yield "tf_efficientnet_lite0", model, images.subset(whole[0::4]), images.subset(whole[1::3]), (64,)


if __name__ == "__main__":
    main()
