"""Weather. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import torch


def brightness(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add `level` to the value of the HSV colour, hue and saturation kept; a grey image gets brighter by `level`."""
    value = images.amax(dim=1, keepdim=True)
    raised = (value + level).clamp(0, 1)
    # scaling a colour keeps its hue and saturation; black has none, and becomes grey
    return torch.where(value > 0, images * (raised / value.clamp(min=1e-12)), raised)
