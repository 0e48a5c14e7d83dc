"""TENT on the images alone whose confidence has not fallen against the original model; unknown ones should fall."""

import math
from typing import Literal

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.test_time._base import entropy
from kedge.test_time.tent import Tent

info = Info(
    "Towards Open-Set Test-Time Adaptation Utilizing the Wisdom of Crowds in Entropy Minimization", "Lee et al.",
    "ICCV", 2023, "https://arxiv.org/abs/2308.06879", "abstract",
)  # fmt: skip


class WisdomOfCrowds(Tent):
    """mean over kept images of H(p_i) - α H(mean of p over the batch); i is kept if p_i[c] >= p°_i[c], c = argmax p°_i.

    p° is of the model as it was. The rule is the paper's (caption of its figure 6). The term with α, which keeps the
    mean prediction diverse, is of a public re-implementation, and whether p° is to rest on stored statistics or on the
    batch's is not known: there it is the batch's.

    Args:
        lr: as of `Tent`.
        diversity: α, 0 or more; 0 for the filter alone.
        original: the statistics of the model as it was, "stored" or "batch".
        prior: as of `BatchStatistics`.
    """

    def __init__(
        self,
        lr: float = 1e-3,
        diversity: float = 0.0,
        original: Literal["stored", "batch"] = "stored",
        prior: float = 0.0,
    ) -> None:
        """Raises ValueError for a weight that is negative or not finite, and for other statistics."""
        super().__init__(lr, prior)
        if not 0 <= diversity < math.inf:
            raise ValueError(f"diversity is a weight, 0 or more, got {diversity}")
        if original not in ("stored", "batch"):
            raise ValueError(f"original is 'stored' or 'batch', whose statistics the original has, not {original!r}")
        self.diversity = float(diversity)
        self.original: Literal["stored", "batch"] = original

    def chosen(self, logits: Tensor, original: Tensor | None) -> Tensor:
        """Where the probability of the original answer has not fallen."""
        assert original is not None
        confidence, answers = original.float().softmax(1).max(1)
        now = logits.float().softmax(1).gather(1, answers[:, None])[:, 0]
        # The first batch of "batch" is asked twice about the same: rounding is no fall.
        return now >= confidence - 1e-6

    def loss(self, logits: Tensor, chosen: Tensor) -> Tensor:
        """Entropy of the chosen, less α times that of the mean prediction of all."""
        loss = super().loss(logits, chosen)
        if self.diversity:
            mean = logits.float().softmax(1).mean(0, keepdim=True)
            loss = loss - self.diversity * entropy(mean.clamp(min=torch.finfo(mean.dtype).tiny).log())[0]
        return loss
