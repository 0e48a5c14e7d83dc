"""Which images an epoch holds, and in which order: functions (labels, epoch, seed) -> indices, a file each.

`labels` are long `[N]`, the indices long `[M]`: as many for each epoch, which need not be as many as the set has. Each
epoch is a draw of its own, the same for the same epoch and seed.

One with an argument `errors` is told how wrong the model was, on the validation images, on each class: a row of shares
of wrong answers `[C]` for each epoch that is over. Its draws are the same for the same epoch, seed and errors.
"""

from kedge.samplers._base import Sampler, make_sampler

__all__ = ["Sampler", "make_sampler"]
