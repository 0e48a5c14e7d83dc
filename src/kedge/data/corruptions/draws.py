"""Random numbers by counter: draw j of image i is a hash of (key_i, j), so neither the batch nor the device's
generator has a part in it."""

import math

import torch

from kedge.data.seeds import GAMMA, hashed

_BITS = 24  # what float32 holds exactly


def normal(keys: torch.Tensor, shape: tuple[int, ...]) -> torch.Tensor:
    """Return standard normal draws, float32 [B, *shape], one key long [B] each; none lies beyond 5.8.

    The transform is Box & Muller's (1958).
    """
    count = math.prod(shape)
    counter = torch.arange(-(-count // 2), device=keys.device) * GAMMA
    bits = hashed(keys[:, None] + counter)
    # u in (0, 1], so that its logarithm is finite
    radius = _uniform(bits, 40).add_(2.0**-_BITS).log_().mul_(-2).sqrt_()
    angle = _uniform(bits, 16).mul_(2 * math.pi)
    pairs = torch.stack((angle.cos().mul_(radius), angle.sin_().mul_(radius)), dim=1)
    return pairs.flatten(1)[:, :count].reshape(len(keys), *shape)


def _uniform(bits: torch.Tensor, shift: int) -> torch.Tensor:
    return (bits >> shift).bitwise_and_((1 << _BITS) - 1).float().mul_(2.0**-_BITS)
