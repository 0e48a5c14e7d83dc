"""Seeds derived from keys, so that every random draw is a pure function of what it is for.

A seed and any number of keys (an epoch, a rank, an image's index, a name) go through SplitMix64 (Steele, Lea &
Flood 2014), whose finaliser has no known correlation between neighbouring inputs. It is integer arithmetic: the same
on every device and in every version of every library.
"""

import hashlib

import torch

_MASK = (1 << 64) - 1
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
GAMMA = 0x9E3779B97F4A7C15 - (1 << 64)  # SplitMix64's odd step, as a signed 64-bit integer


def splitmix64(value: int) -> int:
    """Return the SplitMix64 hash, in [0, 2**64), of a 64-bit integer."""
    value = (value + GAMMA) & _MASK
    for shift, factor in _ROUNDS:
        value = ((value ^ (value >> shift)) * factor) & _MASK
    return value ^ (value >> 31)


def hashed(values: torch.Tensor) -> torch.Tensor:
    """Return the SplitMix64 hash of every entry of a long tensor, as signed 64-bit integers."""
    values = values + GAMMA
    for shift, factor in _ROUNDS:
        values ^= _shifted(values, shift)
        values *= factor - (1 << 64)  # wraps round, as it should
    values ^= _shifted(values, 31)
    return values


def derive_seed(seed: int, *keys: int | str) -> int:
    """Return a seed in [0, 2**63) that depends on `seed` and on every key, in their order."""
    state = splitmix64(seed & _MASK)
    for key in keys:
        if isinstance(key, str):  # hash() of a string differs from process to process
            key = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little")
        # the state is hashed once more than the key, else (0, 1) and (1, 0) would be one
        state = splitmix64(splitmix64(state) ^ splitmix64(key & _MASK))
    return state >> 1


def derive_keys(indices: torch.Tensor, seed: int, *keys: int | str) -> torch.Tensor:
    """Return one 64-bit key per index, long like `indices`, depending on the seed and on every key."""
    return hashed(hashed(indices.long()) ^ derive_seed(seed, *keys))


def unit_interval(keys: torch.Tensor) -> torch.Tensor:
    """Return a float64 in [0, 1) for each 64-bit key, by its highest 53 bits."""
    return _shifted(keys, 11).double() / (1 << 53)


def generator(seed: int, *keys: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """Return a torch generator on `device`, seeded by `derive_seed(seed, *keys)`."""
    return torch.Generator(device=device).manual_seed(derive_seed(seed, *keys))


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed torch's global generators of the CPU and of `device`.

    `torch.manual_seed` asks every kind of device and notes a stack trace for each that has not been used yet: on a CPU
    that took a fifth of a small network's training step, and memory in every step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        torch.get_device_module(device).manual_seed(seed)


def _shifted(values: torch.Tensor, shift: int) -> torch.Tensor:
    # torch's >> repeats the sign; the hash wants zeros shifted in
    return (values >> shift).bitwise_and_((1 << (64 - shift)) - 1)


def shuffled(count: int, seed: int, what: str) -> torch.Tensor:
    """The places of so many things in an order drawn by the seed, the same for good; long `[count]`."""
    return derive_keys(torch.arange(count), seed, what).argsort(stable=True)
