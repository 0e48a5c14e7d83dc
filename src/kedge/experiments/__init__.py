"""Experiments: variants of a recipe over seeds, evaluated and set beside a paper's figures."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge.experiments.experiment import Experiment, Variant, experiment_names, load_experiment

if TYPE_CHECKING:
    from kedge.experiments.evaluating import evaluate_one as evaluate_one
    from kedge.experiments.reproducing import gathered as gathered
    from kedge.experiments.running import Planned as Planned
    from kedge.experiments.running import first_here as first_here
    from kedge.experiments.running import plan as plan
    from kedge.experiments.running import train_one as train_one

# The command line lists experiments, and must not wait for torch to do so.
_HOMES = {
    "Planned": "running",
    "evaluate_one": "evaluating",
    "first_here": "running",
    "gathered": "reproducing",
    "plan": "running",
    "train_one": "running",
}
__all__ = [
    "Experiment",
    "Planned",
    "Variant",
    "evaluate_one",
    "experiment_names",
    "first_here",
    "gathered",
    "load_experiment",
    "plan",
    "train_one",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kedge.experiments.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.experiments' has no attribute {name!r}")
