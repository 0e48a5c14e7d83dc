"""Frost with kedge's own textures beside frost with the published photographs, on published CIFAR-10 networks.

    python -m benchmarks.frost --textures FOLDER --weights FOLDER

The photographs (frost1.png to frost5.jpg of the authors' repository) and the weights are not kedge's and stay where
they are. The networks are the CIFAR ResNets of He et al. (2016) with shortcuts without parameters, in safetensors files
named cifar10_resnetDEPTH. Each image is measured with both kinds of textures under the same draws: the difference is
paired. Some minutes for 3,000 images and two networks.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

import kedge
import kedge.data
from kedge.clock import now
from kedge.data.corruptions import SEVERITIES, corrupt
from kedge.evaluation.provenance import machine
from kedge.evaluation.sets import limited
from kedge.files import write_text

RESULTS = Path(__file__).parent / "results"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as their trainer used


class Block(nn.Module):
    """Two convolutions beside a shortcut that takes every second pixel and pads channels with zeros."""

    def __init__(self, channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(channels, width, 3, stride, 1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        self.stride, self.pad = stride, (width - channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        """Features."""
        past = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        short = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.pad, self.pad))
        return F.relu(past + short)


class ResNet(nn.Module):
    """The CIFAR ResNet of `depth` layers."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        blocks, channels = (depth - 2) // 6, 16
        for stage, width in enumerate((16, 32, 64), 1):
            strides = [1 if stage == 1 else 2, *[1] * (blocks - 1)]
            widths = [channels, *[width] * (blocks - 1)]
            made = [Block(c, width, s) for c, s in zip(widths, strides, strict=True)]
            setattr(self, f"layer{stage}", nn.Sequential(*made))
            channels = width
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits `[B, 10]`."""
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(x.mean((2, 3)))


def network(weights: Path, depth: int) -> nn.Module:
    """A published network, of images in [0, 1]."""
    made = ResNet(depth)
    made.load_state_dict(load_file(weights / f"cifar10_resnet{depth}.safetensors"))
    return kedge.plain(made, mean=MEAN, std=STD, example=(3, 32, 32)).eval()


@torch.no_grad()
def compare(model: nn.Module, images: Any, positions: Tensor, severity: int, textures: Path) -> dict[str, float]:
    """Accuracy in percent with both kinds of textures, their difference and its standard error."""
    right: dict[str, list[Tensor]] = {"published": [], "kedge": []}
    start = 0
    for pixels, labels in images.batches(100):
        where = positions[start : start + len(labels)]
        start += len(labels)
        for name, folder in (("published", textures), ("kedge", None)):
            shown = corrupt(pixels.float() / 255, "frost", severity, where, frost_textures=folder)
            right[name].append(model(shown).argmax(1) == labels)
    columns = {name: 100 * torch.cat(found).double() for name, found in right.items()}
    apart = columns["kedge"] - columns["published"]
    means = {name: float(column.mean()) for name, column in columns.items()}
    return {**means, "difference": float(apart.mean()), "standard error": float(apart.std()) / len(apart) ** 0.5}


def main(arguments: list[str] | None = None) -> int:
    """Compare, print, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.frost", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--textures", type=Path, required=True, help="the folder of the photographs")
    parser.add_argument("--weights", type=Path, required=True, help="the folder of the networks")
    parser.add_argument("--depths", type=int, nargs="+", default=[20, 56])
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--out", type=Path, default=RESULTS / "frost.json")
    args = parser.parse_args(arguments)
    images, positions = limited(kedge.data.load("cifar10", "test"), args.images, 0)
    rows: dict[str, dict[str, dict[str, float]]] = {}
    for depth in args.depths:
        model = network(args.weights, depth)
        rows[f"ResNet-{depth}"] = {}
        for severity in SEVERITIES:
            row = compare(model, images, positions, severity, args.textures)
            rows[f"ResNet-{depth}"][str(severity)] = row
            print(depth, severity, {key: round(value, 1) for key, value in row.items()}, flush=True)
    result = {
        "name": "frost",
        "created": now(),
        "machine": machine(),
        "settings": {"images": args.images},
        "rows": rows,
    }
    write_text(args.out, json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
