"""Up in equal jumps, epoch by epoch, then half of it each epoch."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from kedge.catalog import Info
from kedge.optim.schedules._base import check_factor, check_whole

info = Info(
    "A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial Fine-tuning",
    "Jeddi et al.",
    "arXiv",
    2020,
    "https://arxiv.org/abs/2012.13628",
    "derived",
)

WARMUP = 0.5  # of a run that does not say


class SlowStartHalving(LambdaLR):
    """Up in equal jumps for `rise` epochs, then multiplied by `gamma` each epoch; constant within an epoch.

    Epoch k (from 0) runs at f(k) times the rate that the optimizer was made with, the peak:

        f(k) = (k + 1) / rise               k < rise
        f(k) = gamma^(k - rise + 1)         k ≥ rise

    A step-wise form of the same idea, seen in a public re-implementation of arXiv 2012.13628: it multiplies its
    optimizer's rate by 1 to 5 over five epochs and then halves it each epoch; give five times that rate here.

    Args:
        optimizer: its rates are the peaks, one for each parameter group.
        steps_per_epoch: optimizer steps in an epoch; `step()` is called after each of them.
        rise: epochs until the peak, whose last runs at the peak; 1 or more.
        gamma: what the rate is multiplied by at every epoch after the rise, in (0, 1].

    Raises:
        ValueError: for values out of range.
    """

    def __init__(self, optimizer: Optimizer, steps_per_epoch: int, rise: int = 5, gamma: float = 0.5) -> None:
        check_whole("steps_per_epoch", steps_per_epoch)
        check_whole("rise", rise)
        check_factor("gamma", gamma)

        def factor(step: int) -> float:
            epoch = step // steps_per_epoch
            return (epoch + 1) / rise if epoch < rise else gamma ** (epoch - rise + 1)

        super().__init__(optimizer, factor)


def for_run(optimizer: Optimizer, steps_per_epoch: int, warmup: int) -> LambdaLR:
    """As `SlowStartHalving`, with the rise in steps."""
    return SlowStartHalving(optimizer, steps_per_epoch, max(1, round(warmup / steps_per_epoch)))
