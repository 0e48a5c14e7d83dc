"""Attacks: `attack(model, images, targets) -> adversarial images` within a ball round each image.

Epsilons are in pixel units of [0, 1]. Training and evaluation share them.
"""

from kedge.attacks.autoattack import AutoAttack
from kedge.attacks.ball import distance
from kedge.attacks.bank import Bank
from kedge.attacks.pgd import FGSM, PGD

__all__ = ["FGSM", "PGD", "AutoAttack", "Bank", "distance"]
