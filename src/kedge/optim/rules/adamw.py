"""Adam with decoupled weight decay: each weight at a rate of its own."""

from torch import optim
from torch.optim.optimizer import ParamsT

from kedge.catalog import Info

info = Info(
    "Decoupled Weight Decay Regularization",
    "Loshchilov and Hutter",
    "ICLR",
    2019,
    "https://arxiv.org/abs/1711.05101",
    "code",
)

FEW = 100  # images to train on, below which a lower rate moves a fitted probe to less harm


class AdamW(optim.AdamW):
    """`torch.optim.AdamW`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: share of the weight, times the rate, that a step takes off.
        betas: decay of the averages of the gradient and of its square.
        eps: added to the root of the latter.
        fused: one kernel for a whole step; None as torch chooses.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_decay: float = 0.01,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        fused: bool | None = None,
    ) -> None:
        first, second = betas
        super().__init__(params, lr=lr, betas=(first, second), eps=float(eps), weight_decay=weight_decay, fused=fused)

    @staticmethod
    def usual(batch_size: int, count: int, trained: bool, tuned: bool, attacking: bool) -> dict[str, float]:
        """The rate and weight decay of a run that says none."""
        return {"lr": (3e-4 if count >= FEW else 1e-4) if tuned else 1e-4 if trained else 1e-3, "weight_decay": 0.05}
