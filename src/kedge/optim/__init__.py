"""Gradient rules, schedules and parameter groups for any training loop of torch.

A rule (`SGD`, `AdamW`, `SAM`, `OrthoGrad`, ...) is a file in `kedge.optim.rules`, a schedule (`cosine`, ...) one in
`kedge.optim.schedules`; all of them can be had from here by their names.
"""

from typing import Any

from kedge import catalog
from kedge.optim.groups import by_layer, layer_numbers, parameter_groups, stage_of, unfreezing

_ROOMS = ("optim.rules", "optim.schedules")
__all__ = [
    "by_layer",
    "layer_numbers",
    "parameter_groups",
    "stage_of",
    "unfreezing",
    *(name for room in _ROOMS for name in catalog.class_names(room)),
]


def __getattr__(name: str) -> Any:
    room = next((room for room in _ROOMS if name in catalog.class_names(room)), _ROOMS[0])
    return catalog.exported(f"kedge.{room}", name)
