"""Loops in PyTorch as practitioners write them: RandomResizedCrop and flip, a fresh head, all layers trained at one
rate, batch norm in training mode.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.photos.worker import cpu_seconds, create_network, epochs_within, files_of, seed_all, stack

BATCH = 32
RECIPES = {
    "adamw": "AdamW 3e-4, weight decay 0.05, cosine after one epoch of warm-up",
    "sgd": "SGD 0.01, momentum 0.9 (Nesterov), weight decay 1e-4, cosine after one epoch of warm-up",
    "tutorial": "PyTorch's transfer learning tutorial: SGD 0.001, momentum 0.9, a tenth after every 7 of 25 epochs",
}


def train(variant: str, args: argparse.Namespace) -> dict[str, Any]:
    """Train for as many epochs as --epochs or the budget says (the tutorial: for its own 25); save the weights."""
    import torch
    from PIL import Image
    from safetensors.torch import save_file
    from torch.nn import functional as F
    from torchvision.transforms import v2

    from kedge.data.formats import FORMATS

    seed_all(args.seed)
    files, labels, classes = files_of(args.photos / "train")
    network = create_network(args.network, args.weights, len(classes)).to(memory_format=torch.channels_last)
    mean, std = _normalisation(network)
    change = v2.Compose([v2.RandomResizedCrop(args.size, antialias=True), v2.RandomHorizontalFlip()])
    target, size = torch.tensor(labels), 4 if variant == "tutorial" else min(BATCH, max(8, len(files) // 5))

    def step(rows: list[int], network: torch.nn.Module) -> torch.Tensor:
        images = stack([change(Image.open(files[row], formats=FORMATS).convert("RGB")) for row in rows])
        images = ((images.float() / 255 - mean) / std).contiguous(memory_format=torch.channels_last)
        loss = F.cross_entropy(network(images), target[rows])
        loss.backward()
        return loss

    network.train()
    steps = max(1, len(files) // size)  # the rest of an epoch is left out, as DataLoader's drop_last does
    epochs = 25
    if variant != "tutorial":
        trial = create_network(args.network, None, len(classes)).to(memory_format=torch.channels_last).train()
        of_epoch = steps * cpu_seconds(lambda: step(list(range(size)), trial))
        epochs = args.epochs or epochs_within(args.budget, of_epoch, least=10)
        seed_all(args.seed + 1)
    optimizer, schedule = _optimizer(variant, network, epochs, steps)
    for _ in range(epochs):
        for rows in torch.randperm(len(files)).split(size)[:steps]:
            optimizer.zero_grad()
            step(rows.tolist(), network)
            optimizer.step()
            schedule.step()
    tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
    save_file(tensors, args.out / "model.safetensors")
    (args.out / "network.txt").write_text(f"{args.network} {len(classes)}")
    return {"recipe": f"{RECIPES[variant]}; {epochs} epochs, batches of {size}", "epochs": epochs}


def view(variant: str, args: argparse.Namespace) -> tuple[Any, Any]:
    """Shorter side to size / 0.875, centre crop: the usual evaluation view."""
    return centre_crop(args.photos / "test", args.size, 0.875)


def load(variant: str, args: argparse.Namespace) -> Callable[[Any], Any]:
    """Logits of the trained network."""
    import torch
    from safetensors.torch import load_file

    name, classes = (args.model / "network.txt").read_text().split()
    network = create_network(name, None, int(classes)).to(memory_format=torch.channels_last).eval()
    network.load_state_dict(load_file(args.model / "model.safetensors"))
    mean, std = _normalisation(network)
    return lambda images: network((images.float() / 255 - mean) / std)


def centre_crop(folder: Path, size: int, share: float) -> tuple[Any, Any]:
    """Photos of FOLDER/CLASS with the shorter side resized to size / `share` (bicubic), their centre; and labels."""
    import torch
    from PIL import Image
    from torchvision.transforms import InterpolationMode, v2

    from kedge.data.formats import FORMATS

    shown = v2.Compose([v2.Resize(round(size / share), InterpolationMode.BICUBIC, antialias=True), v2.CenterCrop(size)])
    files, labels, _ = files_of(folder)
    return stack([shown(Image.open(file, formats=FORMATS).convert("RGB")) for file in files]), torch.tensor(labels)


def _normalisation(network: Any) -> tuple[Any, Any]:
    import torch

    mean, std = (torch.tensor(network.default_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    return mean, std


def _optimizer(variant: str, network: Any, epochs: int, steps: int) -> tuple[Any, Any]:
    from torch.optim import SGD, AdamW
    from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, SequentialLR, StepLR

    if variant == "tutorial":
        optimizer: Any = SGD(network.parameters(), 0.001, momentum=0.9)
        return optimizer, StepLR(optimizer, 7 * steps, 0.1)
    if variant == "adamw":
        optimizer = AdamW(network.parameters(), 3e-4, weight_decay=0.05)
    else:
        optimizer = SGD(network.parameters(), 0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)
    warm = LinearLR(optimizer, 0.1, total_iters=steps)
    return optimizer, SequentialLR(optimizer, [warm, CosineAnnealingLR(optimizer, (epochs - 1) * steps)], [steps])
