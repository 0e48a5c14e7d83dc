"""TENT: a step on the entropy of the batch's predictions, of the scale and shift of batch-norm layers alone."""

import math
from collections.abc import Iterable
from typing import ClassVar

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.test_time._base import Adapter, entropy

info = Info(
    "Tent: Fully Test-Time Adaptation by Entropy Minimization", "Wang et al.", "ICLR", 2021,
    "https://arxiv.org/abs/2006.10726", "code",
)  # fmt: skip


class Tent(Adapter):
    """One Adam step a batch on the mean entropy H(p) = -Σ_c p_c log p_c; layers normalise with the batch.

    The answer to a batch is the output before the step that it leads to. Entropy falls too where a model grows surer of
    what is wrong, or answers one class to everything: use it with a brake.

    Args:
        lr: of Adam (β 0.9 and 0.999, no decay); 0: batch statistics, for ever.
        prior: as of `BatchStatistics`; the authors' 0.
    """

    learns: ClassVar[bool] = True

    def __init__(self, lr: float = 1e-3, prior: float = 0.0) -> None:
        """Raises ValueError for a learning rate that is negative or not finite."""
        super().__init__(prior)
        if not 0 <= lr < math.inf:
            raise ValueError(f"lr is 0 or more and finite, got {lr}")
        self.lr = float(lr)

    def optimizer(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        """Adam."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=(0.9, 0.999))

    def loss(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """The mean entropy of the chosen images."""
        return entropy(logits[chosen]).mean()
