"""A trained model inside an objective, such as a teacher: it answers, and nothing about it changes or is saved."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kedge.objectives._whole_batch import by_rows


class Frozen(nn.Module):
    """A copy of a model in eval mode whose weights stay as they are.

    It goes where the objective goes (`.to(device)`), is in no checkpoint and no group of parameters, and no `train()`
    reaches it.

    Args:
        model: images in [0, 1] to logits. Raises TypeError for what is no module.
        role: what messages call it.
    """

    def __init__(self, model: nn.Module, role: str = "teacher") -> None:
        super().__init__()
        self.role = role
        if not isinstance(model, nn.Module):
            raise TypeError(f"the {role} is a model, an nn.Module from images to logits, got {model!r}")
        # In a tuple it is no submodule: its weights are none of the objective's.
        self._inside = (copy.deepcopy(model).eval().requires_grad_(False),)

    @property
    def model(self) -> nn.Module:
        """The model itself."""
        return self._inside[0]

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return type(self.model).__name__

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Frozen":
        self.model._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` without a gradient."""
        logits: Tensor = self.model(images)
        return logits

    def beside(self, view: nn.Module, images: Tensor) -> Tensor:
        """Logits `[B, C]`, shared out over the processes where the model `view` of the step shares its batch."""
        return by_rows(view, self, images)

    def check(self, model: Any) -> None:
        """Raise ValueError where the classes or the images of `model` are not this one's, as far as both say them."""
        for name, what in (("num_outputs", "outputs"), ("class_names", "classes"), ("input_shape", "images [C, H, W]")):
            own, other = getattr(self.model, name, None), getattr(model, name, None)
            if own is not None and other is not None and _listed(own) != _listed(other):
                raise ValueError(
                    f"the {what} of the {self.role}, {_short(own)}, are not those of the model, {_short(other)}: name "
                    f"a {self.role} of the same classes, in the same order, and the same image size"
                )


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, list | tuple | torch.Size) else value


def _short(value: Any) -> str:
    entries = _listed(value)
    if not isinstance(entries, list):
        return str(value)
    return f"{', '.join(map(str, entries[:6]))}{', ...' if len(entries) > 6 else ''}"
