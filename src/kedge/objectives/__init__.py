"""What a training step minimises: modules called with (model, images, targets) that return a scalar loss.

Wrappers take an inner objective, so methods nest: `Mixup(Anchored(CrossEntropy()), alpha=0.2)`,
`Anchored(Adversarial(CrossEntropy(), attack=PGD(8 / 255, steps=10)), alpha=0)`.
"""

from kedge.objectives.abnormal import AAER
from kedge.objectives.adversarial import TRADES, Adversarial, Attacking, attacks_images
from kedge.objectives.anchored import Anchored
from kedge.objectives.basic import CrossEntropy, Objective, SquaredError, image_weights, set_looks, set_progress
from kedge.objectives.confidence_penalty import ConfidencePenalty
from kedge.objectives.cure import CURE
from kedge.objectives.mixing import CutMix, Mixup
from kedge.objectives.one_reference import OneReference
from kedge.objectives.replacing import Blend, Noise

__all__ = [
    "AAER",
    "CURE",
    "TRADES",
    "Adversarial",
    "Anchored",
    "Attacking",
    "Blend",
    "ConfidencePenalty",
    "CrossEntropy",
    "CutMix",
    "Mixup",
    "Noise",
    "Objective",
    "OneReference",
    "SquaredError",
    "attacks_images",
    "image_weights",
    "set_looks",
    "set_progress",
]
