"""Slow start, fast decay: the learning rate of adversarial fine-tuning.

Source: Jeddi, Shafiee and Wong, "A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial
Fine-tuning", 2020, arXiv 2012.13628. The paper gives the idea in words, a rate that starts small, rises gradually and
then decays steeply; its formula could not be recovered. What is here is our reading of the words.
"""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

__all__ = ["SlowStartFastDecay", "SlowStartHalving"]

RAMPS = ("linear", "exp")


class SlowStartFastDecay(LambdaLR):
    """A slow rise to the full rate, then a geometric decay, stepped once after each optimizer step.

    Step i (from 0) of T runs at f(i) times the rate that the optimizer was made with, the peak. With a ramp of
    W = warmup · T steps (the nearest whole number, less than T), start s and end e:

        f(i) = s + (1 - s) i / W            i < W, ramp="linear"
        f(i) = s^(1 - i / W)                i < W, ramp="exp": the same factor at every step
        f(i) = e^((i - W) / (T - W))        W ≤ i ≤ T
        f(i) = e                            i > T

    so that f(0) = s, f(W) = 1 and f(T) = e. Our reading of arXiv 2012.13628, which describes the shape in words only.

    Args:
        optimizer: its rates are the peaks, one for each parameter group.
        total_steps: T, optimizer steps of the whole run.
        warmup: share of the run that is ramp, in [0, 1); 0 starts at the peak.
        start_factor: s, the first step's rate as a share of the peak, in (0, 1].
        end_factor: e, the rate after the last step as a share of the peak, in (0, 1].
        ramp: "linear" or "exp".

    Raises:
        ValueError: for values out of range.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        total_steps: int,
        warmup: float = 0.3,
        start_factor: float = 0.01,
        end_factor: float = 0.01,
        ramp: str = "linear",
    ) -> None:
        _check_whole("total_steps", total_steps)
        if not 0 <= warmup < 1:
            raise ValueError(
                f"warmup is the share of the run in which the rate rises, in [0, 1), got {warmup}: "
                "0.3 is the first 30 % of the steps"
            )
        _check_factor("start_factor", start_factor)
        _check_factor("end_factor", end_factor)
        if ramp not in RAMPS:
            raise ValueError(f"ramp must be one of {RAMPS}, got {ramp!r}")
        # A whole number, so that one step runs at the full rate; less than T, so that a short run has that step.
        rise = min(round(warmup * total_steps), total_steps - 1)

        def factor(step: int) -> float:
            if step >= rise:
                return float(end_factor ** min(1.0, (step - rise) / (total_steps - rise)))
            done = step / rise
            return float(start_factor ** (1 - done) if ramp == "exp" else start_factor + (1 - start_factor) * done)

        super().__init__(optimizer, factor)


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
        _check_whole("steps_per_epoch", steps_per_epoch)
        _check_whole("rise", rise)
        _check_factor("gamma", gamma)

        def factor(step: int) -> float:
            epoch = step // steps_per_epoch
            return (epoch + 1) / rise if epoch < rise else gamma ** (epoch - rise + 1)

        super().__init__(optimizer, factor)


def _check_whole(name: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number, 1 or more, got {value!r}")


def _check_factor(name: str, value: float) -> None:
    if not 0 < value <= 1:
        raise ValueError(f"{name} must be in (0, 1], a share of the full rate, got {value}")
