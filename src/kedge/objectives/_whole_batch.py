"""Several processes, one batch: an objective sees all of it, the network of each process runs on its share.

So whatever an objective draws or compares within a batch (references, partners, masks, class counts) is what one
process would have drawn and compared, and its loss is the loss of the whole batch, in every process.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kedge.objectives._synchronised import synchronised_batch_norm
from kedge.objectives._views import View, unwrapped
from kedge.seeds import derive_seed

__all__ = ["WholeBatch", "by_rows", "gathered", "share_of"]


def share_of(count: int) -> slice:
    """The rows of this process among `count`: every W-th of W processes."""
    return slice(dist.get_rank(), count, dist.get_world_size())


def gathered(rows: Tensor, count: int) -> Tensor:
    """The `count` rows of all processes, in their order, of the share that each holds; without gradients."""
    world = dist.get_world_size()
    most = -(-count // world)
    padded = rows.new_zeros(most, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in range(world)]
    dist.all_gather(parts, padded)
    return torch.stack(parts, 1).flatten(0, 1)[:count]


class _Share(torch.autograd.Function):
    """The rows of this process; backward the gradients of all processes' rows.

    Where losses are the same in all processes and parameters get the mean of their gradients over processes, what comes
    back from the share of one has to weigh as many times more: `_Whole` multiplies, and this divides again.
    """

    @staticmethod
    def forward(ctx: Any, whole: Tensor) -> Tensor:
        ctx.count = len(whole)
        return whole[share_of(len(whole))]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gathered(gradient.contiguous(), ctx.count) / dist.get_world_size()


class _Whole(torch.autograd.Function):
    """The rows of all processes; backward the gradient of this one's."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, count: int) -> Tensor:
        return gathered(rows.contiguous(), count)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient[share_of(len(gradient))] * dist.get_world_size(), None


class WholeBatch(View):
    """A view of a model that is called with the whole batch in every process, and runs it on the share of each.

    Batch norm in training mode takes the statistics of the whole batch. Layers that draw at random, such as dropout,
    draw in each process for its own rows, by `seed`, and leave the generators as they are in all of them. Parameters
    have to get the mean of their gradients over the processes, as `DistributedDataParallel` gives them.

    Args:
        model: the model, the same in all processes.
        seed: of this step's draws inside the network.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__(model)
        self.seed = seed
        self.calls = 0

    @property
    def module(self) -> nn.Module:
        """The model, as data-parallel wrappers call it."""
        return self.model

    def around(self, other: nn.Module) -> "WholeBatch":
        """The same view of another model."""
        return WholeBatch(other, derive_seed(self.seed, "another"))

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Logits `[B, C]` of all processes' images; what is `bound` has one row for each image, or one for all."""
        count = len(images)
        core = unwrapped(self.module)
        draw = getattr(core, "draw_references", None) if core.training and count > 1 else None
        if draw is not None and bound.get("references") is None:
            bound["references"] = draw(images)  # as the model would, of the images of all processes
        mine = {
            name: value if value is None or len(value) != count else value[share_of(count)]
            for name, value in bound.items()
        }
        own = _Share.apply(images)
        self.count = count
        self.calls += 1
        with own_draws(derive_seed(self.seed, dist.get_rank(), self.calls), images.device), statistics(core):
            logits = self.module(own, **mine)
        return self.rows_of(logits)

    def rows_of(self, rows: Tensor) -> Tensor:
        """What a layer of the model put out for this process's rows, of all processes' rows `[B, ...]`."""
        whole: Tensor = _Whole.apply(rows, self.count)
        return whole


def by_rows(view: nn.Module, compute: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """`compute(images)`, row by row without gradients, shared out over the processes where `view` shares its batch."""
    if not any(isinstance(each, WholeBatch) for each in view.modules()):
        return compute(images)
    return gathered(compute(images[share_of(len(images))]).contiguous(), len(images))


def statistics(model: nn.Module) -> Any:
    """Within, batch norm that takes the statistics of its batch takes those of all processes' rows."""
    needed = any(isinstance(m, _BatchNorm) and (m.training or m.running_mean is None) for m in model.modules())
    return synchronised_batch_norm() if needed else nullcontext()


@contextmanager
def own_draws(seed: int, device: torch.device) -> Iterator[None]:
    """Draws of this process alone from torch's global generators, which are as before afterwards."""
    generators = [torch.default_generator]
    if device.type == "cuda":
        generators.append(
            torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
        )
    states = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(seed)
    try:
        yield
    finally:
        for generator, state in zip(generators, states, strict=True):
            generator.set_state(state)
