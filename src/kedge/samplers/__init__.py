"""Which images an epoch holds, and in which order: functions (labels, epoch, seed) -> indices, a file each.

`labels` are long `[N]`, the indices long `[M]`: as many for each epoch, which need not be as many as the set has. Each
epoch is a draw of its own, the same for the same epoch and seed.
"""

from kedge.samplers._base import Sampler, make_sampler

__all__ = ["Sampler", "make_sampler"]
