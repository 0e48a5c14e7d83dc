"""What a sampler is, and how a recipe names one."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from kedge import catalog

__all__ = ["Sampler", "make_sampler"]

Sampler = Callable[[Tensor, int, int], Tensor]  # (labels, epoch, seed) -> indices
_OF_THE_RUN = ("labels", "epoch", "seed")


def make_sampler(spec: Any) -> Sampler:
    """The sampler that a recipe names, `class-balanced`, `{NAME: {argument: value}}` or `module:function`.

    Raises:
        ValueError: for a name or an argument that is none.
    """
    part, *_ = catalog.parts("samplers", spec)
    if reserved := [key for key in part.values if key in _OF_THE_RUN]:
        raise ValueError(f"sampler {part.name} has no argument {reserved[0]!r} to set: it comes from the run")
    return partial(part.method, **part.values) if part.values else part.method
