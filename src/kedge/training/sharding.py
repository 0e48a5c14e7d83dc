"""Training a network that is too large for one device: its weights shared out over several (FSDP2)."""

from typing import Any

import torch
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard

from kedge.anchoring import PixelModel
from kedge.objectives import Objective
from kedge.training.nested import methods
from kedge.training.recipe import Recipe

__all__ = ["Sharded", "check_shardable", "here", "put_together", "shard"]


class Sharded(ModelParallelStrategy):
    """FSDP2 over all devices; checkpoints are those of a run that is not sharded, and read as such."""

    def __init__(self, world: int) -> None:
        super().__init__(data_parallel_size=world, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = True) -> dict[str, Any]:
        """Read a checkpoint of a run; ValueError if it is damaged, something else, or would run code."""
        self.checkpoint_io.load_checkpoint(checkpoint_path)
        return super().load_checkpoint(checkpoint_path, weights_only=True)


def check_shardable(recipe: Recipe, objective: nn.Module) -> None:
    """Raise ValueError for what reads or copies all weights in each step or epoch."""
    if recipe.world == 1:
        raise ValueError("shard is for several devices: set devices, or leave shard out")
    unshardable = {
        "ema": recipe.ema is not None,
        "snapshots": recipe.snapshots > 0,
        "compile": recipe.compile,
        "precision": recipe.precision == "16",
    }
    for name, is_set in unshardable.items():
        if is_set:
            raise ValueError(f"{name} {getattr(recipe, name)} does not go with shard: leave one of them out")
    if wrappers := methods("optimizer", recipe.optimizer)[:-1]:
        raise ValueError(f"optimizer {wrappers[0][0]} looks at whole weights, which shard takes apart: leave one out")
    for each in objective.modules():
        if isinstance(each, Objective) and type(each).on_gradients is not Objective.on_gradients:
            raise ValueError(f"{type(each).__name__} changes gradients of whole weights, which shard takes apart")
        if getattr(each, "reads_weights", False):
            raise ValueError(f"{type(each).__name__} compares whole weights, which shard takes apart: leave one out")
    own = next((each for each in objective.modules() if any(p.requires_grad for p in each.parameters())), None)
    if own is not None:
        raise ValueError(
            f"{type(own).__name__} has weights of its own that are trained, which shard does not share out"
        )
    if recipe.val_pgd_steps and any(getattr(each, "attack", None) is not None for each in objective.modules()):
        raise ValueError("validation images cannot be attacked while weights are sharded: set val_pgd_steps 0")


def shard(model: PixelModel, mesh: DeviceMesh) -> None:
    """Share out the weights of the network: block by block, so that one block at a time is whole on a device.

    Blocks are the entries of Sequential and ModuleList that have layers of their own.
    """
    lists = [m for m in model.network.modules() if isinstance(m, nn.Sequential | nn.ModuleList)]
    blocks = {id(block): block for each in lists for block in each if next(block.parameters(), None) is not None}
    nested = [m for m in model.network.modules() if id(m) in blocks and next(m.children(), None) is not None]
    for block in reversed(nested):  # inner ones first
        fully_shard(block, mesh=mesh)
    fully_shard(model.network, mesh=mesh)


def here(value: Tensor) -> Tensor:
    """What this process holds of a tensor: its part of a sharded one, else all."""
    local: Tensor = value.to_local() if hasattr(value, "to_local") else value
    return local


@torch.no_grad()
def put_together(sharded: PixelModel, whole: PixelModel) -> PixelModel:
    """`whole`, a model on the CPU that was copied before sharding, with the weights that `sharded` has now.

    All processes take part, one tensor after another.
    """
    values = sharded.state_dict()
    for name, mine in whole.state_dict().items():
        value = values[name]
        mine.copy_(value.full_tensor() if hasattr(value, "full_tensor") else value)
    return whole
