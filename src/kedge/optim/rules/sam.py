"""Sharpness-aware minimisation: the gradient of the worst point nearby, in place of the one here."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.optim import Optimizer

from kedge.catalog import Info
from kedge.optim.rules._base import Wrapper

info = Info(
    "Sharpness-Aware Minimization for Efficiently Improving Generalization",
    "Foret et al.",
    "ICLR",
    2021,
    "https://arxiv.org/abs/2010.01412",
    "code",
)

EXAMPLE = "[{sam: {rho: 0.05}}, sgd]"


class SAM(Wrapper):
    """A step by the gradient at w + ρ g / ‖g‖, with g the gradient at w and ‖g‖ its norm over all weights together.

    Weights whose rate is 0, as layers that do not learn yet, are none of these: the point nearby is one that the step
    could go to.

    The closure runs twice, so that a step costs two passes. It has to draw the same both times (dropout, references,
    augmentation), as a run of kedge does: `torch.manual_seed` in its first line. A wrapper outside, a hook or a limit
    on the gradient inside of the closure acts on both gradients; the weights are put back bit for bit in between.
    Several processes climb along the gradient that they share, as one process with all their images would.

    Args:
        inner: the optimizer that steps by that gradient, from w.
        rho: ρ, how far away the point is, 0 or more; 0 is the optimizer inside.
        model: the running statistics of its norm layers are moved by the first pass alone, and both passes see those of
            before; None: both move them.

    Raises:
        ValueError: for a `rho` below 0; a step without a closure.

    Source: Foret et al., "Sharpness-Aware Minimization for Efficiently Improving Generalization", ICLR 2021,
        arXiv 2010.01412, algorithm 1 with p = 2.
    """

    passes = 2

    def __init__(self, inner: Optimizer, rho: float = 0.05, model: nn.Module | None = None) -> None:
        if not 0 <= rho < math.inf:
            raise ValueError(f"rho is a distance, 0 or more, got {rho}")
        super().__init__(inner)
        self.rho = rho
        self.model = model

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights; `closure` computes the loss and its gradients, twice. Gives the loss at w."""
        if closure is None:
            raise ValueError(
                "SAM computes the gradients of a step twice: hand step() the closure that does, zeroes them before "
                "and gives the loss"
            )
        before = [each.clone() for each in self._statistics()]
        with torch.enable_grad():
            loss = closure()
        self._nearby(closure, self._learning(), before)
        self.inner.step()
        return loss

    def _learning(self) -> list[nn.Parameter]:
        """The weights that have a gradient, but for those of layers before their turn."""
        groups = [group for group in self.param_groups if group.get("lr") != 0]
        return [p for group in groups for p in group["params"] if p.grad is not None]

    def _nearby(self, closure: Callable[[], Any], weights: list[nn.Parameter], before: list[Tensor]) -> Tensor:
        """The gradients at the point up from here, in place of those here, whose norm it gives.

        The weights are put back, and the running statistics as the passes until now left them; `before`: those that
        the pass starts from.
        """
        after = [each.clone() for each in self._statistics()]
        here = [p.detach().clone() for p in weights]
        norm = self._climb(weights)
        self._set_statistics(before)  # which an attack that looks at the model in eval mode sees
        with torch.enable_grad():
            closure()
        self._set_statistics(after)
        _set(weights, here)
        return norm

    @torch.no_grad()
    def _climb(self, weights: list[nn.Parameter]) -> Tensor:
        """Go up from here; the norm of the gradient, float32."""
        gradients = [p.grad for p in weights if p.grad is not None]
        if not gradients:
            return torch.zeros(())
        norms = torch.stack([n.float().to(weights[0].device) for n in torch._foreach_norm(gradients)])
        norm = norms.norm()
        share = self.rho / (norm + 1e-12)
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.add_(gradient * share.to(weight))
        return norm

    def _statistics(self) -> list[Tensor]:
        layers = [] if self.model is None else [m for m in self.model.modules() if isinstance(m, _NormBase)]
        return [buffer for layer in layers for buffer in layer.buffers(recurse=False)]

    def _set_statistics(self, values: Sequence[Tensor]) -> None:
        _set(self._statistics(), values)


@torch.no_grad()
def _set(tensors: Sequence[Tensor], values: Sequence[Tensor]) -> None:
    if tensors:
        torch._foreach_copy_(list(tensors), list(values))
