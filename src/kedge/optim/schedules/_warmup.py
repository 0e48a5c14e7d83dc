"""The linear warm-up that schedules share: step i of `warmup` steps, from 0, runs at (i + 1) / warmup of the rate.

So the first step already learns something, and step `warmup` runs at the full rate.
"""

from collections.abc import Callable

__all__ = ["check_warmup", "warmed"]


def warmed(factor: Callable[[int], float], warmup: int) -> Callable[[int], float]:
    """`factor` after the warm-up."""
    return lambda step: (step + 1) / warmup if step < warmup else factor(step)


def check_warmup(steps: int, warmup: int) -> None:
    """Raise ValueError for a warm-up that is as long as the run."""
    if warmup < 0 or warmup >= steps:
        raise ValueError(f"a warm-up of {warmup} steps does not fit into {steps}: it must be shorter")
