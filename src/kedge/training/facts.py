"""What run.json says of a run when it begins."""

from dataclasses import asdict, replace
from typing import Any

from torch import nn

from kedge.epsilon import print_ball
from kedge.training.build import step_passes
from kedge.training.cost import cost_of
from kedge.training.folder import surroundings
from kedge.training.module import ball
from kedge.training.recipe import Recipe
from kedge.training.record import FILE
from kedge.training.start_from import earlier_passes

__all__ = ["costs", "first_facts"]


def first_facts(
    recipe: Recipe,
    given: Recipe,
    data: dict[str, Any],
    objective: nn.Module,
    probe: dict[str, Any] | None,
    in_memory: bool,
) -> dict[str, Any]:
    """What is known at the start of a run by `recipe`, which was `given` with less filled in.

    `in_memory`: whether it starts from a model that was handed over, whose own training is not on record.
    """
    facts = {**surroundings(), "seed": recipe.seed, "data": data, "given": asdict(given)}
    spent = None if in_memory else earlier_passes(recipe) if recipe.init_from or recipe.pretrained else 0.0
    facts["cost"] = costs(recipe, objective, data, spent)
    if attack := ball(objective):
        facts["attack"] = print_ball(attack.eps, attack.norm)
    if probe is not None:
        facts["probe"] = probe
    facts["record"] = FILE
    return facts


def costs(recipe: Recipe, objective: nn.Module, data: dict[str, Any], earlier: float | None) -> dict[str, Any]:
    """What the run takes, after `earlier` passes of what it starts from; None where that is not known."""
    assert recipe.epochs is not None
    assert recipe.batch_size is not None
    passes = step_passes(recipe)
    cost = cost_of(objective, recipe.epochs, data["train"], recipe.batch_size, earlier, passes)
    # k trainings of (k - 1)/k of the images, then one of all
    return asdict(replace(cost, passes=cost.passes * max(1, recipe.folds or 0)))
