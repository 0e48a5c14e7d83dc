"""What schedules share: checks of their settings, and the linear warm-up.

Step i of `warmup` steps, from 0, runs at (i + 1) / warmup of the rate: the first step already learns something, and
step `warmup` runs at the full rate.
"""

from collections.abc import Callable

__all__ = ["check_factor", "check_warmup", "check_whole", "warmed"]


def warmed(factor: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """`factor` after the warm-up."""
    return lambda step: (step + 1) / warmup if step < warmup else factor(step)


def check_warmup(steps: int, warmup: int) -> None:
    """Raise ValueError for a warm-up that is as long as the run."""
    if warmup < 0 or warmup >= steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps}: it must be shorter")


def check_whole(name: str, value: int) -> None:
    """Raise ValueError for what is no whole number, 1 or more."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")


def check_factor(name: str, value: float) -> None:
    """Raise ValueError for what is no share, in (0, 1]."""
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], a share of the full rate, got {value}")
