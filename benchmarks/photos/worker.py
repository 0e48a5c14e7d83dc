"""One step of one tool in a process of its own: train, show the test photos as the tool sees them, give logits.

    python -m benchmarks.photos.worker train --method fastai-4 --photos FOLDER --weights FILE --out FOLDER

Imports nothing of kedge unless the tool is kedge, so that another Python may run it.
"""

import argparse
import importlib
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

# Method -> (module of the tool, its variant). All modules have train, view and load.
METHODS = {
    "kedge": ("by_kedge", "default"),
    "kedge-plain": ("by_kedge", "plain"),
    "kedge-anchored": ("by_kedge", "anchored"),
    "fastai-4": ("by_fastai", "four"),
    "fastai-time": ("by_fastai", "time"),
    "fastai-squish": ("by_fastai", "squish"),
    "fastai-presized": ("by_fastai", "presized"),
    "fastai-frozen": ("by_fastai", "frozen"),
    "loop-adamw": ("by_loop", "adamw"),
    "loop-sgd": ("by_loop", "sgd"),
    "loop-tutorial": ("by_loop", "tutorial"),
    "probe": ("by_probe", "crop"),
    "probe-whole": ("by_probe", "whole"),
}
PACKAGES = ("torch", "torchvision", "timm", "fastai", "scikit-learn", "pillow")


def tool(method: str) -> tuple[Any, str]:
    """The module that trains a method, and the name of its variant there."""
    module, variant = METHODS[method]
    return importlib.import_module(f"benchmarks.photos.{module}"), variant


def versions() -> dict[str, str]:
    """Versions of what is installed of `PACKAGES` in this Python."""
    known: dict[str, str] = {"python": sys.version.split()[0]}
    for name in PACKAGES:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return known


def files_of(folder: Path) -> tuple[list[Path], list[int], list[str]]:
    """Photos, labels and class names of FOLDER/CLASS/*, in the order of their names."""
    classes = sorted(path.name for path in folder.iterdir() if path.is_dir())
    pairs = [(file, c) for c, name in enumerate(classes) for file in sorted((folder / name).iterdir())]
    return [file for file, _ in pairs], [c for _, c in pairs], classes


def create_network(name: str, weights: Path | None, classes: int) -> Any:
    """A network of timm for `classes` classes, 0: its features; with published weights of a file, else random."""
    import timm

    own = {} if weights is None else {"pretrained_cfg_overlay": {"file": str(weights)}}
    return timm.create_model(name, pretrained=weights is not None, num_classes=classes, **own)


def stack(images: list[Any]) -> Any:
    """PIL images of one size as uint8 [N, 3, H, W]."""
    import numpy as np
    import torch

    return torch.stack([torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1) for image in images])


def seed_all(seed: int) -> None:
    """Seed what a script seeds: random, numpy, torch."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # what the tools draw from
    torch.manual_seed(seed)


def cpu_seconds(call: Callable[[], Any], times: int = 2) -> float:
    """CPU seconds of one call, the first one left out."""
    call()
    began = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - began) / times


def epochs_within(budget: float, of_epoch: float, least: int, most: int = 400) -> int:
    """The fewest epochs that take at least `budget` seconds."""
    return min(most, max(least, -int(-budget // of_epoch)))


def batches(images: Any, size: int = 64) -> Iterator[Any]:
    """Parts of `images` [N, C, H, W]."""
    yield from images.split(size)


def _train(args: argparse.Namespace) -> None:
    module, variant = tool(args.method)
    args.out.mkdir(parents=True, exist_ok=True)
    record = module.train(variant, args)
    (args.out / "record.json").write_text(json.dumps({**record, "versions": versions()}))


def _view(args: argparse.Namespace) -> None:
    from safetensors.torch import save_file

    module, variant = tool(args.method)
    images, labels = module.view(variant, args)
    save_file({"images": images.contiguous(), "labels": labels}, args.out)


def _logits(args: argparse.Namespace) -> None:
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    module, variant = tool(args.method)
    answer = module.load(variant, args)
    logits = {}
    with torch.inference_mode(), safe_open(args.images, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  # no mapping
            if name != "labels":
                logits[name] = torch.cat([answer(part) for part in batches(file.get_tensor(name))]).float().contiguous()
        as_shipped = module.load_as_shipped(variant, args) if hasattr(module, "load_as_shipped") else None
        if as_shipped is not None:  # on the clean photos alone, since it takes many passes
            shown = [as_shipped(part) for part in batches(file.get_tensor("clean"))]
            logits["clean, as shipped"] = torch.cat(shown).float().contiguous()
    save_file(logits, args.out)


def main(arguments: list[str] | None = None) -> int:
    """Do one step."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.photos.worker", description=__doc__)
    parser.add_argument("step", choices=["train", "view", "logits"])
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--photos", type=Path, help="folder with train and test")
    parser.add_argument("--network", help="name in timm")
    parser.add_argument("--weights", type=Path, help="safetensors; left out: random ones")
    parser.add_argument("--size", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--budget", type=float, default=0.0, help="train for at least so many CPU seconds")
    parser.add_argument("--epochs", type=int, default=0, help="train for so many epochs, whatever the budget; 0: by it")
    parser.add_argument("--model", type=Path, help="folder that train wrote")
    parser.add_argument("--images", type=Path, help="safetensors of uint8 [N, 3, H, W] by name")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args(arguments)
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    torch.set_num_threads(args.threads)
    {"train": _train, "view": _view, "logits": _logits}[args.step](args)
    return 0


if __name__ == "__main__":
    sys.exit(main())
