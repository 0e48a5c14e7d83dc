"""A star of light, which two corruptions draw."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._draws import integers, normal, stream

_RAYS = 200  # of a sparkle, at most


def star(
    keys: torch.Tensor,
    middle: torch.Tensor,
    radius: float,
    power: float,
    shortest: float,
    images: torch.Tensor,
) -> torch.Tensor:
    """Return the light, in [0, 1], [B, 1, H, W], of a star about `middle` [B, 2] with rays of random lengths.

    It is (1 - (f - 1/2)^2) * (length^2 / distance^2)^power, f the place between two rays and length their interpolated
    length, normal with a standard deviation of a quarter of the radius.
    """
    y, x = pixels.places(images)
    dy, dx = y - middle[:, 0].view(-1, 1, 1), x - middle[:, 1].view(-1, 1, 1)
    square = dy * dy + dx * dx
    distance = square.sqrt()
    rays = integers(stream(keys, 1), (), 50, _RAYS).view(-1, 1, 1)
    # atan2(dx, dy), whose last bits depend on the place in memory, by half its angle
    half = torch.where(distance + dy > 0, (dx / (distance + dy).clamp(min=1e-12)).atan(), math.pi / 2)
    turn = ((half / math.pi + 0.5) * rays).clamp(min=0)
    ray = turn.floor()
    between = turn - ray
    lengths = (radius * (1 + 0.25 * normal(stream(keys, 2), (_RAYS,)))).clamp(min=shortest)
    ends = [lengths.gather(1, ((ray.long() + i) % rays).flatten(1)).view(ray.shape) for i in (0, 1)]
    length = ends[0] + between * (ends[1] - ends[0])
    ratio = length * length / (square + 1e-4)
    light = (1 - (between - 0.5).square()) * (ratio.log() * power).exp()
    return light.clamp(0, 1)[:, None]


def sides(images: torch.Tensor) -> torch.Tensor:
    """Height and width, long [2]."""
    return torch.tensor(images.shape[2:], device=images.device)
