"""What numbers and devices on the command line can be, looked at before anything slow starts."""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import jsonargparse

__all__ = ["check_values"]

_LARGE = 10**9
# (least, most) of each option, by its name; what an option means in one command alone stands in `own`.
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 1_000_000),
    "workers": (0, 256),
    "limit": (1, _LARGE),
    "steps": (1, 10_000),
    "attack_images": (1, _LARGE),
    "bn_images": (2, _LARGE),
    "references": (1, 100_000),
    "severity": (1, 5),
    "epochs": (1, 1_000_000),
    "jobs": (1, 1024),
    "devices": (1, 1024),
    "nodes": (1, 100_000),
    "draws": (1, 1000),
    "drawn": (1, 10_000),
    "images": (1, _LARGE),
    "seeds": (1, 10_000),
    "seed": (-(2**63), 2**63 - 1),
}


def check_values(config: "jsonargparse.Namespace", **own: tuple[float, float]) -> None:
    """Raise ValueError for the first number that is out of its range, and for a device that is not here.

    `own`: ranges in this command alone, as those of `RANGES`.
    """
    for name, (low, high) in {**RANGES, **own}.items():
        value = config.get(name)
        if isinstance(value, int | float) and not low <= value <= high:  # not of NaN
            shown = f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
            limit = f"{low:g} or more" if value < low else f"{low:g} to {high:,.0f}"
            raise ValueError(f"--{name} must be {limit}, got {shown}")
    if config.get("device") not in (None, "auto", "cpu"):
        from kedge.devices import chosen_device

        chosen_device(config.device)
