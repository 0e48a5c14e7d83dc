"""Networks that others trained and published, by the files of a folder of weights beside `KEDGE_DATA`."""

import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

import kedge
from kedge import networks

WEIGHTS = Path(os.environ.get("KEDGE_DATA", "nowhere")).parent / "weights"
SETTINGS: dict[str, dict[str, Any]] = {
    "cifar10_resnet20": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "example": (3, 32, 32)},
    "cifar10_resnet56": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "example": (3, 32, 32)},
    "tf_efficientnet_lite0": {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5), "example": (3, 224, 224)},
}


def published(name: str) -> Any:
    """A published network as a plain model, in eval mode."""
    if name.startswith("cifar10"):
        network = networks.create(name.replace("cifar10", "kedge"), 10)
    else:
        import timm

        network = timm.create_model(name, pretrained=False)
    network.load_state_dict(load_file(WEIGHTS / f"{name}.safetensors"))
    return kedge.plain(network.eval(), **SETTINGS[name]).to(memory_format=torch.channels_last)
