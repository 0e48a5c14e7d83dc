"""A slow rise to the full rate, then a fast decay: the learning rate of adversarial fine-tuning.

Source: Jeddi, Shafiee and Wong, "A Simple Fine-tuning Is All You Need: Towards Robust Deep Learning Via Adversarial
Fine-tuning", 2020, arXiv 2012.13628. The paper gives the idea in words, a rate that starts small, rises gradually and
then decays steeply; its formula could not be recovered. What is here is our reading of the words.
"""

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
    "abstract",
)

RAMPS = ("linear", "exp")
WARMUP = 0.3  # of a run that does not say


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
        check_whole("total_steps", total_steps)
        if not 0 <= warmup < 1:
            raise ValueError(
                f"warmup is the share of the run in which the rate rises, in [0, 1), got {warmup}: "
                "0.3 is the first 30 % of the steps"
            )
        check_factor("start_factor", start_factor)
        check_factor("end_factor", end_factor)
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


def for_run(
    optimizer: Optimizer,
    steps: int,
    warmup: int,
    start_factor: float = 0.01,
    end_factor: float = 0.01,
    ramp: str = "linear",
) -> LambdaLR:
    """As `SlowStartFastDecay`, with the rise in steps."""
    return SlowStartFastDecay(optimizer, steps, warmup / steps, start_factor, end_factor, ramp)
