"""Attacks: `attack(model, images, targets) -> adversarial images` within a ball round each image.

Epsilons are in pixel units of [0, 1]. Training and evaluation share them. Each is a file of this folder; what it says
of itself beside `eps` and `norm` is in `Attack`.
"""

from typing import Any

from kedge import catalog
from kedge.anchoring.bank import Bank
from kedge.attacks._ball import distance
from kedge.attacks._base import Attack, as_attack

__all__ = [*catalog.class_names("attacks"), "Attack", "Bank", "as_attack", "distance"]


def __getattr__(name: str) -> Any:
    return catalog.exported(__name__, name)


def __dir__() -> list[str]:
    return __all__
