"""What a training step minimises: modules called with (model, images, targets) that return a scalar loss.

Wrappers take an inner objective, so methods nest: `Mixup(Anchored(CrossEntropy()), alpha=0.2)`,
`Anchored(Adversarial(CrossEntropy(), attack=PGD(8 / 255, steps=10)), alpha=0)`. Each is a file of this folder.
"""

from typing import Any

from kedge import catalog
from kedge.objectives._attacking import Attacking, attacks_images
from kedge.objectives._base import Objective, set_looks, set_progress, set_streams
from kedge.objectives._frozen import Frozen
from kedge.objectives._recording import recording
from kedge.objectives._weights import image_weights

__all__ = [
    *catalog.class_names("objectives"),
    "Attacking",
    "Frozen",
    "Objective",
    "attacks_images",
    "image_weights",
    "recording",
    "set_looks",
    "set_progress",
    "set_streams",
]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
