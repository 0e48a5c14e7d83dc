"""How much room on the disk a run needs at least, asked before it starts."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from kedge.full_disk import check_space
from kedge.training.build import make_rule
from kedge.training.folder import RunFolder
from kedge.training.recipe import Recipe

__all__ = ["check_room", "least_room"]


def check_room(recipe: Recipe, model: nn.Module, folder: RunFolder, resumed: bool, attacking: bool) -> None:
    """Raise ValueError, in words, where the disk has less room than the run is certain to need."""
    check_space(folder.path, least_room(recipe, model, resumed, attacking), "this run, its checkpoints and models,")


def least_room(recipe: Recipe, model: nn.Module, resumed: bool, attacking: bool) -> int:
    """Bytes of the files that are there at once: a checkpoint and the one that replaces it, and models kept beside it.

    `resumed`: what is there already is not counted. `attacking`: whether the best weights so far are kept.
    """
    assert recipe.epochs is not None
    weights = _bytes(model.state_dict().values())
    trained = _bytes(p for p in model.parameters() if p.requires_grad)
    moments = _moments(recipe)
    checkpoint = weights + moments * trained + (weights if recipe.ema is not None else 0)
    if resumed:
        return checkpoint
    checkpoints = checkpoint * min(2, recipe.epochs)
    # Of each fold a checkpoint and a model, until the run is over, and what it began with.
    each = checkpoint + (2 if recipe.head == "probe" else 1) * weights
    folds = (recipe.folds or 0) * each
    kept = recipe.epochs // recipe.snapshots if recipe.snapshots else 0
    kept += 1 if recipe.init_from is not None else 0
    kept += 1 if attacking else 0
    return max(checkpoints, checkpoint + weights) + kept * weights + folds


def _moments(recipe: Recipe) -> int:
    """How many tensors like the weights the optimizer keeps: seen after a step with two weights."""
    weights = nn.Parameter(torch.ones(2))
    optimizer = make_rule(recipe, [weights])
    weights.grad = torch.ones(2)
    optimizer.step(lambda: 0.0)
    values = optimizer.state.get(weights, {}).values()
    return sum(isinstance(v, Tensor) and v.shape == weights.shape for v in values)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
