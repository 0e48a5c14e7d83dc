"""`kedge version`: what is installed here."""

import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jsonargparse

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


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge version`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="kedge version", description="Show the versions of kedge and its libraries, and the device."
    )
    made.add_argument("--format", choices=["table", "json"], default="table", help="how to print them")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Print the versions."""
    found = versions()
    if config.format == "json":
        import json

        print(json.dumps(found, indent=2))
    else:
        width = max(len(name) for name in found)
        for name, value in found.items():
            print(f"{name:<{width}}  {value if value is not None else 'not installed'}")
    return 0


def versions() -> dict[str, str | None]:
    """The versions by name; None for what is not installed."""
    import torch

    from kedge._version import __version__

    found: dict[str, str | None] = {
        "kedge": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
    }
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        devices.append("Apple GPU (mps)")
    found["device"] = ", ".join(devices) or f"cpu, {torch.get_num_threads()} threads"
    return found
