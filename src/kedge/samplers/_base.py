"""What a sampler is, and how a recipe names one."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge import specs

__all__ = ["Sampler", "check_share", "draws_of", "epoch_length", "make_sampler", "wants_errors"]

Sampler = Callable[[Tensor, int, int], Tensor]  # (labels, epoch, seed) -> indices
_OF_THE_RUN = ("labels", "epoch", "seed", "errors")
Errors = Sequence[Sequence[float]]


def make_sampler(spec: Any, errors: Errors = ()) -> Sampler:
    """The sampler that a recipe names, `class-balanced`, `{NAME: {argument: value}}` or `module:function`.

    Args:
        spec: how it is named.
        errors: what one with an argument `errors` gets whenever it draws: for each epoch that is over the shares of
            wrong answers by class on the validation images, a list that the run goes on with.

    Raises:
        ValueError: for a name or an argument that is none.
    """
    part, *_ = specs.parts("samplers", spec)
    if reserved := [key for key in part.values if key in _OF_THE_RUN]:
        raise ValueError(f"sampler {part.name} has no argument {reserved[0]!r} to set: it comes from the run")
    values = {**part.values, "errors": errors} if "errors" in part.arguments else part.values
    return partial(part.method, **values) if values else part.method


def wants_errors(spec: Any) -> bool:
    """Whether a sampler draws by the validation error of the classes."""
    return "errors" in specs.parts("samplers", spec)[0].arguments


def draws_of(sampler: Sampler, labels: Tensor, epoch: int, seed: int) -> Tensor:
    """The images that an epoch holds, long `[M]`: places among the `labels` `[N]`.

    Raises:
        ValueError: for what a sampler of one's own gives and that are none.
    """
    order = sampler(labels, epoch, seed)
    if not isinstance(order, Tensor) or order.dtype != torch.long or order.ndim != 1 or not len(order):
        what = f"{order.dtype} of the shape {list(order.shape)}" if isinstance(order, Tensor) else type(order).__name__
        raise ValueError(f"a sampler gives the places of an epoch's images, long [M], one or more, not {what}")
    if not 0 <= int(order.min()) <= int(order.max()) < len(labels):
        low, high = int(order.min()), int(order.max())
        raise ValueError(f"a sampler gives places of {len(labels)} images, 0 to {len(labels) - 1}, not {low} to {high}")
    return order


def epoch_length(sampler: Sampler, labels: Tensor, seed: int) -> int:
    """How many images each epoch holds: as many as the first."""
    return len(draws_of(sampler, labels, 0, seed))


def check_share(sampler: str, name: str, value: float) -> None:
    """Raise ValueError unless `value` is in (0, 1]."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        raise ValueError(
            f"sampler {sampler}: {name} is the smallest class over the largest, above 0 up to 1, got {value!r}"
        )
