"""The Brier score as a loss: squared error of the probabilities, bounded, so that wrong labels pull less."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import check_targets, soft_targets
from kedge.objectives._weights import ClassWeighted

info = Info(
    "ConfTuner: Training Large Language Models to Express Their Confidence Verbally", "Li et al.", "arXiv", 2025,
    "https://arxiv.org/abs/2508.18847", "derived",
)  # fmt: skip


class Brier(ClassWeighted):
    """Σ_c (p_c - t_c)², p the softmax of the logits and t the target, the mean over the images; in [0, 2].

    A proper score: the expected loss is least where p are the true probabilities. Unlike cross-entropy it is bounded,
    and its gradient vanishes on images that are confidently wrong: wrong labels are remembered less, and training
    starts slower. About four times the learning rate makes up for that. Source: Brier, "Verification of forecasts
    expressed in terms of probability", 1950; as a training loss of confidences ConfTuner, arXiv 2508.18847 (abstract).

    Args:
        class_weights: `[C]`, 0 or more, or None; an image of target t counts Σ_c w_c t_c, as in `CrossEntropy`.
        labels: those of the training images `[N]`; with them weights are ratios, brought to a mean of 1 over these.

    Raises:
        ValueError: for weights that `CrossEntropy` does not take either.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean squared distance."""
        logits = model(images)
        targets = check_targets(targets, logits)
        wide = torch.promote_types(logits.dtype, torch.float32)
        soft = soft_targets(targets, logits.shape[1])
        losses = (logits.to(wide).softmax(1) - soft).square().sum(1)
        return self.weighted_mean(losses, model, targets, logits.shape[1])
