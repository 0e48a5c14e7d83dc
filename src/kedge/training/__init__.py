"""Training: a recipe in, a run folder and a model out.

From a recipe to a plan: it is read (recipe, recipe_checks, nested), takes over what the model decides that it starts
from (start_from), has all that is open filled in once (prepare, resolve), and its objects are made (objective,
named_models, build). What was begun is on record for when it goes on (digests, facts, record, recorded).
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge.training.recipe import Recipe, load_recipe, recipe_names

if TYPE_CHECKING:
    from kedge.training.calibration import calibrate as calibrate
    from kedge.training.calibration import fit_temperature as fit_temperature
    from kedge.training.errors import TrainingStopped as TrainingStopped
    from kedge.training.fitting import fit as fit
    from kedge.training.outcome import RunResult as RunResult

# The command line reads Recipe from here, and must not wait for torch to do so.
_HOMES = {
    "RunResult": "outcome",
    "TrainingStopped": "errors",
    "calibrate": "calibration",
    "fit": "fitting",
    "fit_temperature": "calibration",
}
__all__ = [
    "Recipe",
    "RunResult",
    "TrainingStopped",
    "calibrate",
    "fit",
    "fit_temperature",
    "load_recipe",
    "recipe_names",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kedge.training.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.training' has no attribute {name!r}")
