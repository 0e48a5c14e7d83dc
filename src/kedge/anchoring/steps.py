"""Steps after the network that change its confidence and no label: named, saved with the model, removable."""

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

STEPS = ("temperature",)


def check_steps(steps: Any, task: str = "classification") -> None:
    """Raise ValueError unless `steps` maps known names to records with a `value` that can be applied."""
    if not isinstance(steps, Mapping):
        raise ValueError(f"steps must map names to records, got {type(steps).__name__}")
    for name, record in steps.items():
        if name not in STEPS:
            raise ValueError(f"there is no step {name!r}; there is {', '.join(STEPS)}")
        value = record.get("value") if isinstance(record, Mapping) else None
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"the value of the step {name!r} must be a positive finite number, got {value!r}")
        if task != "classification":
            raise ValueError(f"the step {name!r} is for classification, and the task is {task}")


def describe_steps(steps: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """In words, such as `temperature 1.32`."""
    return [f"{name} {record['value']:.3g}" for name, record in steps.items()]


class Tempered(nn.Module):
    """A network whose logits are divided by a temperature: what folding makes of a model with that step."""

    def __init__(self, network: nn.Module, temperature: float) -> None:
        super().__init__()
        self.network = network
        self.temperature = temperature

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"temperature={self.temperature:.6g}"

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]`, divided by the temperature."""
        return self.network(images) / self.temperature
