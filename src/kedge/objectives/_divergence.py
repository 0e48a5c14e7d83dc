"""How far apart two answers are."""

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(logits: Tensor, others: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(softmax(logits / T) ‖ softmax(others / T)), the mean over the batch, in float32 or better."""
    other, one = _softened(logits, others, temperature)
    return temperature**2 * F.kl_div(other, one, reduction="batchmean", log_target=True)


def divergences(logits: Tensor, others: Tensor, temperature: float = 1.0) -> Tensor:
    """As `divergence`, `[B]`, of each image."""
    other, one = _softened(logits, others, temperature)
    return temperature**2 * F.kl_div(other, one, reduction="none", log_target=True).sum(1)


def _softened(logits: Tensor, others: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """log softmax of `others` and of `logits`, both divided by the temperature."""
    wide = torch.promote_types(others.dtype, torch.float32)
    one, other = ((each.to(wide) / temperature).log_softmax(1) for each in (logits, others))
    return other, one
