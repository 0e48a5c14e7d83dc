"""What of a recipe may differ when a run goes on; docs/decisions/resume.md says why."""

from kedge import catalog
from kedge.training.nested import code_of, methods
from kedge.training.objective import written
from kedge.training.recipe import Recipe

__all__ = ["MAY_CHANGE", "PLACES", "may_grow"]

# Another machine, another place: what the run learns does not depend on them, but for rounding.
MAY_CHANGE = ("device", "devices", "nodes", "workers", "shard", "runs", "name")
# In recipe.yaml also where the images are now: which they are is told by their content.
PLACES = (*MAY_CHANGE, "data", "extra")


def may_grow(recipe: Recipe, epochs: int | None) -> bool:
    """Whether a run may go on to more `epochs` than its recipe says: where none of it depends on how many there are.

    That is, a schedule in epochs, with a warm-up in epochs, and no part of the objective that follows the progress.
    """
    if epochs is None or recipe.epochs is None or epochs <= recipe.epochs:
        return False
    if code_of(vars(recipe)) or recipe.unfreeze or recipe.warmup is None or 0 < recipe.warmup < 1:
        return False
    if "steps" in catalog.argument_names("optim.schedules", methods("schedule", recipe.schedule)[0][0]):
        return False
    return not any(
        part.values.get(key, parameter.default)
        for parts in written(recipe)
        for part in parts
        for key, parameter in part.arguments.items()
        if key in ("hold", "ramp", "warmup")
    )
