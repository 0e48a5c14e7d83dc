"""What a run costs: forward and backward passes of the network for one image, and room on the disk."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kedge.full_disk import check_space
from kedge.named_model import run_of
from kedge.objectives import Objective, set_progress
from kedge.optim.rules import Wrapper
from kedge.training.build import make_rule, step_passes
from kedge.training.recipe import Recipe
from kedge.training.recorded import recorded_facts
from kedge.training.start_from import find_start

__all__ = ["Cost", "check_room", "costs", "earlier_passes", "least_room"]

# Adversarial training from scratch is published with 76 (Zhang et al. 2019) to 200 epochs (Rice et al. 2020).
FROM_SCRATCH = 100


@dataclass(frozen=True)
class Cost:
    """Forward and backward passes, each of one image.

    Attributes:
        passes: of this run.
        earlier: of training the model that it starts from; None if that is not on record, 0 without one.
        from_scratch: of 100 epochs with the same objective and no model to start from.
    """

    passes: float
    earlier: float | None
    from_scratch: float

    def __str__(self) -> str:
        line = f"cost: {_count(self.passes)} passes forward and backward of an image"
        before = self.earlier
        if before:
            line += f", after {_count(before)} for the model it starts from"
        ratio = self.from_scratch / (self.passes + (before or 0))
        unknown = ", what it starts from not counted" if before is None else ""
        return (
            f"{line}\n      {FROM_SCRATCH} epochs of the same from scratch, as is usual: {_count(self.from_scratch)}, "
            f"{ratio:.1f} times as many{unknown}"
        )


def costs(recipe: Recipe, objective: nn.Module, images: int, earlier: float | None) -> dict[str, Any]:
    """The `Cost` of a run on so many training images, after `earlier` passes of what it starts from, as a mapping."""
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    steps = recipe.epochs * -(-images // recipe.batch_size)
    repeated = step_passes(recipe)

    def passes(share: float) -> float:
        set_progress(objective, share)
        return repeated * (objective.passes if isinstance(objective, Objective) else 1.0)

    mean = sum(passes(step / steps) for step in range(steps)) / steps
    trainings = max(1, recipe.folds or 0)  # k of (k - 1)/k of the images, then one of all
    return asdict(Cost(mean * images * recipe.epochs * trainings, earlier, passes(1.0) * images * FROM_SCRATCH))


def earlier_passes(recipe: Recipe) -> float | None:
    """Forward and backward passes that training the model in init_from took; None where that is not on record."""
    folder = find_start(recipe.init_from) if recipe.init_from is not None else None
    if folder is None or (run := run_of(folder)) is None:
        return None
    try:
        cost = recorded_facts(run)["cost"]
        own = 0.0 if folder.name == "start" else float(cost["passes"])
        return None if cost["earlier"] is None else own + float(cost["earlier"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def check_room(recipe: Recipe, model: nn.Module, folder: Path, resumed: bool, attacking: bool) -> None:
    """Raise ValueError, in words, where the disk has less room than the run is certain to need."""
    check_space(folder, least_room(recipe, model, resumed, attacking), "this run, its checkpoints and models,")


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
    copies = recipe.epochs // recipe.snapshots if recipe.snapshots else 0
    copies += (recipe.init_from is not None) + attacking
    return max(checkpoints, checkpoint + weights) + copies * weights + folds


def _moments(recipe: Recipe) -> int:
    """How many tensors like the weights the optimizer keeps: seen after a step with two weights."""
    weights = nn.Parameter(torch.ones(2))
    optimizer = make_rule(recipe, [weights])
    while isinstance(optimizer, Wrapper):  # whose state is that of the one inside
        optimizer = optimizer.inner
    weights.grad = torch.ones(2)
    optimizer.step(lambda: 0.0)
    values = optimizer.state.get(weights, {}).values()
    return sum(isinstance(v, Tensor) and v.shape == weights.shape for v in values)


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _count(passes: float) -> str:
    return f"{passes / 1e6:,.3g} million" if passes >= 1e6 else f"{passes:,.0f}"
