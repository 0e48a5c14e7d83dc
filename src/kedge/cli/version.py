"""`kedge version`: what is installed here."""

import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "datasets",
    "numpy",
    "scikit-learn",
    "onnx",
    "onnxruntime",
    "onnxscript",
)


def run(*, format: Literal["table", "json"] = "table") -> int:
    """Show the versions of kedge and its libraries, and the device.

    Args:
        format: how to print them
    """
    installed = versions()
    if format == "json":
        print(json.dumps(installed, indent=2))
        return 0
    width = max(map(len, installed))
    for name, number in installed.items():
        print(f"{name:<{width}}  {number or 'not installed'}")
    return 0


def versions() -> dict[str, str | None]:
    """The versions by name; None for what is not installed."""
    import torch

    from kedge._version import __version__

    numbers: dict[str, str | None] = {
        "kedge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in PACKAGES:
        try:
            numbers[name] = version(name)
        except PackageNotFoundError:
            numbers[name] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    numbers["device"] = ", ".join(devices) or f"cpu, {torch.get_num_threads()} threads"
    return numbers
