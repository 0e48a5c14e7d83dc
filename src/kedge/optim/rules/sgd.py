"""Stochastic gradient descent with momentum, in Nesterov's form."""

from torch import optim
from torch.optim.optimizer import ParamsT

from kedge.catalog import Info

info = Info(
    "On the importance of initialization and momentum in deep learning",
    "Sutskever et al.",
    "ICML",
    2013,
    "https://proceedings.mlr.press/v28/sutskever13.html",
    "code",
)


class SGD(optim.SGD):
    """`torch.optim.SGD` with the defaults of training by a recipe; Nesterov's form is left out without momentum.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        weight_decay: added to the gradient, times the weight.
        momentum: share of the last step in the next one, 0 to 1; 0 is plain gradient descent.
        nesterov: Nesterov's form of momentum.
        fused: one kernel for a whole step; None as torch chooses.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.9,
        nesterov: bool = True,
        fused: bool | None = None,
    ) -> None:
        super().__init__(
            params,
            lr=lr,
            weight_decay=weight_decay,
            momentum=momentum,
            nesterov=nesterov and momentum > 0,
            fused=fused,
        )

    @staticmethod
    def usual(batch_size: int, count: int, trained: bool, tuned: bool, attacking: bool) -> dict[str, float]:
        """The rate and weight decay of a run that says none: linear in the batch (Goyal et al., 2017)."""
        # What is trained on attacked images has as much to learn as from scratch.
        return {"lr": (0.1 if attacking or not trained else 0.02) * batch_size / 128, "weight_decay": 5e-4}
