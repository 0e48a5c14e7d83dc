"""Mean squared error, for regression."""

import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective

info = Info("Mean squared error", checked="code")


class SquaredError(Objective):
    """Mean squared error for regression: targets are values `[B, num_outputs]` (or `[B]` for one output)."""

    targets_kind = "values"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch and the outputs."""
        outputs = model(images)
        targets = targets[:, None] if targets.ndim == 1 else targets
        if targets.shape != outputs.shape:
            raise ValueError(f"targets must have shape {list(outputs.shape)}, got {list(targets.shape)}")
        return F.mse_loss(outputs, targets.to(outputs.dtype))
