"""Adaptation: a trained model taken to a new task, by the ways in `kedge.procedures`; the door to what they share."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.probing.added_classes import AddedClasses as AddedClasses
    from kedge.probing.added_classes import add_classes as add_classes
    from kedge.probing.class_features import FeatureExemplars as FeatureExemplars
    from kedge.probing.class_features import FeatureGaussians as FeatureGaussians
    from kedge.probing.heads import find_head as find_head
    from kedge.probing.heads import with_head as with_head
    from kedge.probing.probe import Probe as Probe
    from kedge.probing.probe import ProbeData as ProbeData
    from kedge.probing.probe import fit_probe as fit_probe
    from kedge.probing.remembered import Remembered as Remembered
    from kedge.probing.remembered import remember as remember
    from kedge.procedures._adapt import Adapted as Adapted
    from kedge.procedures._adapt import adapt as adapt
    from kedge.procedures._layer_rates import Candidate as Candidate
    from kedge.procedures._layer_rates import Search as Search
    from kedge.procedures._layer_rates import search_layer_rates as search_layer_rates
    from kedge.procedures._settings import Settings as Settings
    from kedge.procedures._study import draw_shots as draw_shots
    from kedge.procedures._study import study as study

    HOWS: tuple[str, ...]

# The command line reads HOWS from here, and must not wait for torch to do so.
_HOMES = {
    "Adapted": "procedures._adapt",
    "AddedClasses": "probing.added_classes",
    "Candidate": "procedures._layer_rates",
    "FeatureExemplars": "probing.class_features",
    "FeatureGaussians": "probing.class_features",
    "Probe": "probing.probe",
    "ProbeData": "probing.probe",
    "Remembered": "probing.remembered",
    "Search": "procedures._layer_rates",
    "Settings": "procedures._settings",
    "adapt": "procedures._adapt",
    "add_classes": "probing.added_classes",
    "draw_shots": "procedures._study",
    "find_head": "probing.heads",
    "fit_probe": "probing.probe",
    "remember": "probing.remembered",
    "search_layer_rates": "procedures._layer_rates",
    "study": "procedures._study",
    "with_head": "probing.heads",
}
__all__ = [
    "HOWS",
    "Adapted",
    "AddedClasses",
    "Candidate",
    "FeatureExemplars",
    "FeatureGaussians",
    "Probe",
    "ProbeData",
    "Remembered",
    "Search",
    "Settings",
    "adapt",
    "add_classes",
    "draw_shots",
    "find_head",
    "fit_probe",
    "remember",
    "search_layer_rates",
    "study",
    "with_head",
]


def __getattr__(name: str) -> Any:
    if name == "HOWS":  # the files of the room, as they are called on the command line
        from kedge.catalog import names

        return tuple(each.replace("_", "-") for each in names("procedures"))
    if name in _HOMES:
        return getattr(import_module(f"kedge.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.adaptation' has no attribute {name!r}")
