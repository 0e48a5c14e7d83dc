"""Adaptation: a trained model taken to a new task, by a new head or by fine-tuning."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.adaptation.adapting import Adapted as Adapted
    from kedge.adaptation.adapting import adapt as adapt
    from kedge.adaptation.heads import find_head as find_head
    from kedge.adaptation.heads import with_head as with_head
    from kedge.adaptation.probe import Probe as Probe
    from kedge.adaptation.probe import ProbeData as ProbeData
    from kedge.adaptation.probe import fit_probe as fit_probe
    from kedge.adaptation.shots import draw_shots as draw_shots
    from kedge.adaptation.studies import study as study

# The command line reads HOWS from here, and must not wait for torch to do so.
HOWS = ("linear-probe", "anchored-probe", "finetune", "lp-ft", "wise-ft")
_HOMES = {
    "Adapted": "adapting",
    "Probe": "probe",
    "ProbeData": "probe",
    "adapt": "adapting",
    "draw_shots": "shots",
    "find_head": "heads",
    "fit_probe": "probe",
    "study": "studies",
    "with_head": "heads",
}
__all__ = [
    "HOWS",
    "Adapted",
    "Probe",
    "ProbeData",
    "adapt",
    "draw_shots",
    "find_head",
    "fit_probe",
    "study",
    "with_head",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"kedge.adaptation.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'kedge.adaptation' has no attribute {name!r}")
