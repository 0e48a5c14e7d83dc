"""Random numbers for a batch, image by image, so that they do not depend on how a set was cut into batches."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

_MASK = 2**64 - 1


class Draws:
    """Draws for B images: each image has its own sequence, a function of (seed, its index) alone.

    Args:
        size: B.
        seed: with `indices`, of the sequences; None: fresh draws from `generator`, or from torch's global one.
        indices: the place of each image in its set; None: 0 to B - 1.
        generator: fresh draws from it, whatever the seed.
    """

    def __init__(
        self,
        size: int,
        seed: int | None,
        indices: Sequence[int] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        self.own: list[torch.Generator] | None = None
        self.generator = generator
        if generator is None and seed is not None:
            places = range(size) if indices is None else indices
            if len(places) != size:
                raise ValueError(f"indices must be one for each of the {size} images, got {len(places)}")
            self.own = [torch.Generator().manual_seed(_mixed(seed, place)) for place in places]

    def uniform(self, like: Tensor) -> Tensor:
        """Numbers in [0, 1) of the shape `[B, ...]`, device and dtype of `like`."""
        return self._draw(torch.rand, like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape `[B, ...]`, device and dtype of `like`."""
        return self._draw(torch.randn, like)

    def choices(self, high: int, size: int, shape: tuple[int, ...], device: torch.device) -> Tensor:
        """Integers `[B, *shape]` in [0, high); B is `size`."""
        drawn = self.uniform(torch.empty(size, *shape, device=device))
        # The product can round up to `high` itself.
        return (drawn * high).long().clamp_max(high - 1)

    def _draw(self, kind: Callable[..., Tensor], like: Tensor) -> Tensor:
        if self.own is not None:
            drawn = torch.stack([kind(like.shape[1:], generator=g, dtype=like.dtype) for g in self.own])
        elif self.generator is not None:
            drawn = kind(like.shape, generator=self.generator, device=self.generator.device, dtype=like.dtype)
        else:
            drawn = kind(like.shape, device=like.device, dtype=like.dtype)
        # Of the memory format of `like`, too.
        return torch.empty_like(like).copy_(drawn)


def _mixed(seed: int, index: int) -> int:
    """A well mixed seed of 32 bits, all that torch's CPU generator uses; SplitMix64 (Steele, Lea and Flood 2014)."""
    return _splitmix(_splitmix(seed & _MASK) ^ (index & _MASK)) >> 32


def _splitmix(value: int) -> int:
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)
