"""kedge: image classifiers that generalise under shift, are calibrated, and know what they do not know."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from kedge._version import __version__

if TYPE_CHECKING:
    from kedge.anchoring import AnchoredModel as AnchoredModel
    from kedge.anchoring import PlainModel as PlainModel
    from kedge.anchoring import Prediction as Prediction
    from kedge.anchoring import anchor as anchor
    from kedge.anchoring import plain as plain
    from kedge.cascade import Cascade as Cascade
    from kedge.checkpoint import load as load
    from kedge.checkpoint import save as save
    from kedge.deploy import push_to_hub as push_to_hub
    from kedge.ensemble import Ensemble as Ensemble
    from kedge.hub import from_pretrained as from_pretrained

# The command line must answer --help before torch is imported, so names are looked up on first use.
_HOMES = {
    "Cascade": "kedge.cascade",
    "Ensemble": "kedge.ensemble",
    "AnchoredModel": "kedge.anchoring",
    "PlainModel": "kedge.anchoring",
    "Prediction": "kedge.anchoring",
    "anchor": "kedge.anchoring",
    "from_pretrained": "kedge.hub",
    "plain": "kedge.anchoring",
    "push_to_hub": "kedge.deploy",
    "load": "kedge.checkpoint",
    "save": "kedge.checkpoint",
}
_ROOMS = {
    "adaptation",
    "anchoring",
    "attacks",
    "auditing",
    "cascade",
    "catalog",
    "checkpoint",
    "data",
    "deploy",
    "ensemble",
    "evaluation",
    "experiments",
    "expert_weights",
    "experts",
    "gate",
    "heads",
    "hub",
    "layer_ensemble",
    "layout",
    "members",
    "memory",
    "metrics",
    "networks",
    "objectives",
    "optim",
    "own_code",
    "postprocess",
    "pretrained",
    "probing",
    "procedures",
    "recipes",
    "rejection",
    "reporting",
    "samplers",
    "scores",
    "selection",
    "test_time",
    "training",
    "unknown",
    "weights",
}
__all__ = ["__version__", *sorted(_HOMES), *sorted(_ROOMS)]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    if name in _ROOMS:
        return import_module(f"kedge.{name}")
    raise AttributeError(f"module 'kedge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
