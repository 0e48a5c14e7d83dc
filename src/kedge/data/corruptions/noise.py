"""Noise. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import torch

from kedge.data.corruptions.draws import normal


def gaussian_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add independent normal noise of standard deviation `level` to every value."""
    return images + level * normal(keys, tuple(images.shape[1:]))
