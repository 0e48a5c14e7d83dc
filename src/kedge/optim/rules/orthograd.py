"""Gradients orthogonal to the weights: what would only scale a layer is taken out of its gradient."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from kedge.catalog import Info
from kedge.optim.rules._base import Wrapper

info = Info(
    "Grokking at the Edge of Numerical Stability",
    "Prieto et al.",
    "ICLR",
    2025,
    "https://arxiv.org/abs/2501.04697",
    "code",
)

EXAMPLE = "[orthograd, adamw]"
PARALLEL = 1e-5  # of a gradient: what is left of a smaller share is rounding


class OrthoGrad(Wrapper):
    """The optimizer inside gets g' in place of each gradient g of a weight tensor w, ⊥Grad in the paper.

        g' = (g - (w·g / w·w) w), scaled to ‖g‖

    Tensor by tensor. Along w a gradient scales the logits of a network without normalisation, which lowers the loss
    and changes no label. A gradient along w alone becomes 0: scaled up, its rounding would be a step of full size.
    Tensors of one element, which are always along their weight, and of zeros keep their gradient.

    Args:
        inner: the optimizer that steps by g'.
        rescale: scale g' to the length of g, as the authors' code does; False leaves it as short as it is.

    Source: Prieto, Barsbey, Mediano and Birdal, "Grokking at the Edge of Numerical Stability", ICLR 2025, arXiv
        2501.04697; tensors and scaling as in the authors' code, the two exceptions are ours.
    """

    def __init__(self, inner: Optimizer, rescale: bool = True) -> None:
        super().__init__(inner)
        self.rescale = rescale

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights by the gradients that are there, or that `closure` computes."""
        if closure is None:
            self._project()
            return self.inner.step()

        def projected() -> Any:
            loss = closure()
            self._project()
            return loss

        return self.inner.step(projected)

    @torch.no_grad()
    def _project(self) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None and p.numel() > 1:
                    p.grad.copy_(orthogonal(p, p.grad, self.rescale))


def orthogonal(weight: Tensor, gradient: Tensor, rescale: bool = True) -> Tensor:
    """The part of `gradient` that is orthogonal to `weight`, of the same shape; by default as long as the gradient."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    w, g = weight.to(wide), gradient.to(wide)
    across = g - (w * g).sum() / ((w * w).sum() + 1e-30) * w
    length, rest = g.norm(), across.norm()
    scale = length / rest if rescale else torch.ones_like(rest)
    return across * torch.where(rest <= PARALLEL * length, 0.0, scale)
