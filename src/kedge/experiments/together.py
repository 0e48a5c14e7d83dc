"""Several processes that train one run together: what the first decides, all do."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["agreed", "joined"]

T = TypeVar("T")


@contextmanager
def joined(devices: int, nodes: int) -> Iterator[bool]:
    """Join the processes that torchrun started, where there is to be more than one; gives whether this is the first.

    Raises:
        ValueError: if there are not as many processes as devices on all nodes.
    """
    if devices * nodes == 1:
        yield True
        return
    import torch.distributed as dist

    world = int(os.environ.get("WORLD_SIZE", 1))
    if world != devices * nodes:
        raise ValueError(
            f"one run on {devices} devices, of {nodes} node{'s' if nodes > 1 else ''}, takes {devices * nodes} "
            f"processes, and there {'is' if world == 1 else 'are'} {world}: start them with torchrun --nnodes {nodes} "
            f"--nproc-per-node {devices} -m kedge reproduce ..."
        )
    dist.init_process_group()
    try:
        yield dist.get_rank() == 0
    finally:
        dist.destroy_process_group()


def agreed(decide: Callable[[], T]) -> T:
    """What `decide` gives in the first process, in all of them; a ValueError there is one everywhere."""
    import torch.distributed as dist

    if not (dist.is_available() and dist.is_initialized()):
        return decide()
    shared: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            shared = [(decide(), None)]
        except ValueError as error:
            shared = [(None, str(error))]
    dist.broadcast_object_list(shared, src=0)
    value, words = shared[0]
    if words is not None:
        raise ValueError(words)
    decided: T = value
    return decided
