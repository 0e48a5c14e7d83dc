"""Seeds derived from keys, so that every random draw is a pure function of what it is for.

A seed and any number of keys (an epoch, a rank, an image's index, a name) go through SplitMix64 (Steele, Lea &
Flood 2014), whose finaliser has no known correlation between neighbouring inputs.
"""

import hashlib

import torch

_MASK = (1 << 64) - 1
_GAMMA = 0x9E3779B97F4A7C15


def splitmix64(value: int) -> int:
    """Return the 64-bit SplitMix64 hash of a 64-bit integer."""
    value = (value + _GAMMA) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on `seed` and on every key, in their order."""
    state = splitmix64(seed & _MASK)
    for key in keys:
        if isinstance(key, str):  # hash() of a string differs from process to process
            key = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        state = splitmix64(state ^ splitmix64(key & _MASK))
    return state >> 1


def generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded by `derive_seed(seed, *keys)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))
