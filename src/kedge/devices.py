"""Which device a name stands for, and whether it is here."""

from collections.abc import Mapping
from typing import Any

import torch

from kedge.own_code import near_names

__all__ = ["chosen_device", "cpu_has_bf16", "devices_here"]

KNOWN = ("auto", "cpu", "cuda", "mps")


def devices_here() -> list[str]:
    """The kinds of devices that can be computed on here, the fastest first."""
    there = (
        ("cuda", torch.cuda.is_available()),
        ("mps", torch.backends.mps.is_available()),
        ("cpu", True),
    )
    return [name for name, here in there if here]


def cpu_has_bf16() -> bool:
    """Whether the processor has instructions that bf16 is fast by: AVX-512 or newer, or those of ARM."""
    has: Mapping[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # of later versions; an earlier one is not asked
    return not has or any(has.get(name) for name in ("avx512_f", "avx10_1", "amx_bf16", "bf16", "sve_bf16"))


def chosen_device(name: str, automatic: tuple[str, ...] = ("cuda",)) -> str:
    """The device of this name, such as `cpu`, `cuda` or `cuda:1`; of `auto` the first of `automatic` here, else cpu.

    Raises:
        ValueError: for a name that is none, and for a device that is not here.
    """
    here = devices_here()
    if name == "auto":
        return next((kind for kind in automatic if kind in here), "cpu")
    kind, colon, number = name.partition(":")
    if kind not in KNOWN[1:] or (colon and not number.isdecimal()):
        near = near_names(kind, list(KNOWN), 1)
        raise ValueError(f"there is no device {name!r}; there is auto, {', '.join(here)}{near}")
    if kind not in here:
        raise ValueError(f"device {name} is not available here; there is {', '.join(here)}")
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if number and int(number) >= count:
        numbers = f"{kind}:0" + (f" to {kind}:{count - 1}" if count > 1 else "")
        raise ValueError(f"device {name} is not available here; there is {numbers}")
    return name
