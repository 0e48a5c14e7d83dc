"""Blurs. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import math

import torch
from torch.nn import functional as F


def gaussian_blur(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Blur with a Gaussian of `level` pixels, cut at four standard deviations, edge pixels repeated."""
    radius = int(4 * level + 0.5)
    weights = [math.exp(-0.5 * (i / level) ** 2) for i in range(-radius, radius + 1)]
    total = sum(weights)
    for dim in (2, 3):
        padding = (0, 0, radius, radius) if dim == 2 else (radius, radius, 0, 0)
        padded = F.pad(images, padding, mode="replicate")
        length = images.shape[dim]
        images = padded.narrow(dim, 0, length) * (weights[0] / total)
        # sums of shifted images, not a convolution: bitwise the same for every batch size and precision setting
        for start in range(1, 2 * radius + 1):
            images.add_(padded.narrow(dim, start, length), alpha=weights[start] / total)
    return images
