"""Where results come from: versions and machine, without names of users, hosts or folders."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import torch

from kedge._version import __version__


def machine() -> dict[str, Any]:
    """Versions, operating system, processor count and accelerators."""
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return {
        "kedge": __version__,
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerators": gpus,
    }


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")
