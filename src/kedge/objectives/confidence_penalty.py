"""Cross-entropy with a penalty on confidence."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import check_weight
from kedge.objectives.cross_entropy import CrossEntropy

info = Info(
    "Regularizing Neural Networks by Penalizing Confident Output Distributions", "Pereyra et al.", "arXiv", 2017,
    "https://arxiv.org/abs/1701.06548",
)  # fmt: skip


class ConfidencePenalty(CrossEntropy):
    """Cross-entropy minus `weight` times the entropy of the prediction, the mean over the images.

    Source: Pereyra et al., "Regularizing Neural Networks by Penalizing Confident Output Distributions", arXiv
    1701.06548. With the uniform target as prior it is label smoothing the other way round: KL(p ‖ u) in place of
    KL(u ‖ p).

    Args:
        weight: their β, 0.1 on CIFAR-10.
        label_smoothing: as of `CrossEntropy`.
        class_weights, labels: as of `CrossEntropy`; the entropy counts every image once.

    Raises:
        ValueError: for a negative weight; as of `CrossEntropy`.
    """

    def __init__(
        self,
        weight: float = 0.1,
        label_smoothing: float = 0.0,
        class_weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__(label_smoothing, class_weights, labels)
        check_weight("weight", weight)
        self.weight = weight

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"weight={self.weight}, {super().extra_repr()}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean loss."""
        logits, loss = self._logits_and_loss(model, images, targets)
        log_probs = F.log_softmax(logits.float(), 1)
        # A class excluded by minus infinity has probability 0 and adds nothing.
        negative = (log_probs.exp() * log_probs.clamp_min(-1e4)).sum(1)
        return loss + self.weight * negative.mean()
