"""Noise. Every function here: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import torch

from kedge.data.corruptions.draws import normal, poisson, uniform


def gaussian_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add independent normal noise of standard deviation `level` to every value."""
    return images + level * normal(keys, tuple(images.shape[1:]))


def shot_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Replace every value v by a Poisson count of mean v * level, divided by `level`: few photons, much noise."""
    return poisson(keys, images * level) / level


def impulse_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Set a share `level` of all values, each channel for itself, to 0 or to 1 at equal chances."""
    draw = uniform(keys, tuple(images.shape[1:]))
    return torch.where(draw < level, (draw < level / 2).float(), images)


def speckle_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add normal noise whose standard deviation is `level` times the value itself."""
    return images + images * (level * normal(keys, tuple(images.shape[1:])))
