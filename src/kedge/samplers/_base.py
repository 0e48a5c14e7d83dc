"""What a sampler is, and how a recipe names one."""

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor

from kedge import catalog
from kedge.own_code import near_names

__all__ = ["Sampler", "make_sampler"]

Sampler = Callable[[Tensor, int, int], Tensor]  # (labels, epoch, seed) -> indices
_OF_THE_RUN = ("labels", "epoch", "seed")


def make_sampler(spec: Any) -> Sampler:
    """The sampler that a recipe names, `class-balanced`, `{NAME: {argument: value}}` or `module:function`.

    Raises:
        ValueError: for a name or an argument that is none.
    """
    name, settings = catalog.spelled("samplers", spec)
    function = catalog.get("samplers", name)
    known = [key for key in catalog.arguments(function) if key not in _OF_THE_RUN]
    for key in settings:
        if key not in known:
            raise ValueError(f"sampler {name} has no argument {key!r}{near_names(key, known)}")
    return partial(function, **settings) if settings else function
