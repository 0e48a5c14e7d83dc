"""What a training step minimises: modules called with (model, images, targets) that return a scalar loss.

Wrappers take an inner objective, so methods nest: `Mixup(Anchored(CrossEntropy()), alpha=0.2)`.
"""

from kedge.objectives.anchored import Anchored
from kedge.objectives.basic import CrossEntropy, Objective, SquaredError
from kedge.objectives.mixing import CutMix, Mixup

__all__ = ["Anchored", "CrossEntropy", "CutMix", "Mixup", "Objective", "SquaredError"]
