"""StableMax in place of softmax: logits mapped by sign(z) log(1 + |z|), as in training; no label changes."""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.postprocess._base import Step

info = Info(
    "Grokking at the Edge of Numerical Stability",
    "Prieto et al.",
    "ICLR",
    2025,
    "https://arxiv.org/abs/2501.04697",
    "code",
)


class StableMax(Step):
    """sign(z) log(1 + |z|) of the logits z, whose softmax is the StableMax of z; there is no `value`, it is None.

    The probabilities are s(z_c) / Σ_j s(z_j) with s(z) = z + 1 for z of 0 or more and 1 / (1 - z) below. A model has
    the step that was trained through it, by the objective of this name: without it its confidences would be wrong, and
    those of another model with it. A temperature comes after it. With several references z is the mean over them.
    """

    stage = -1
    sentence = "Probabilities are the StableMax of the network's outputs, through which it was trained"

    def check(self, classes: int | None = None) -> None:
        """Raise ValueError for a value: there is none."""
        if self.value is not None:
            raise ValueError(f"the step 'stable_max' has no value, got {self.value!r:.80}")

    def __call__(self, logits: Tensor) -> Tensor:
        """The mapped logits."""
        positive = logits >= 0  # not sign and abs, whose gradient at 0 is 0: it is 1
        size = torch.where(positive, logits, -logits).log1p()
        return torch.where(positive, size, -size)

    def undo(self, logits: Tensor) -> Tensor:
        """The logits before the map."""
        return logits.sign() * logits.abs().expm1()

    def __str__(self) -> str:
        """In words."""
        return "StableMax"
