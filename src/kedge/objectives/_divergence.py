"""How far apart two answers are."""

import torch
import torch.nn.functional as F
from torch import Tensor


def divergence(logits: Tensor, others: Tensor, temperature: float = 1.0) -> Tensor:
    """T² KL(softmax(logits / T) ‖ softmax(others / T)), the mean over the batch, in float32 or better."""
    wide = torch.promote_types(others.dtype, torch.float32)
    one, other = ((each.to(wide) / temperature).log_softmax(1) for each in (logits, others))
    return temperature**2 * F.kl_div(other, one, reduction="batchmean", log_target=True)
