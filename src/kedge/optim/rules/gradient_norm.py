"""A penalty on the length of the gradient, or a bound that it is held to: flat minima, and outputs that are."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from kedge.catalog import Info
from kedge.optim.rules.sam import SAM

info = Info(
    "Incorporating Surrogate Gradient Norm to Improve Offline Optimization Techniques",
    "Dao et al.",
    "NeurIPS",
    2024,
    "https://arxiv.org/abs/2503.04242",
    "code",
)

EXAMPLE = "[{gradient_norm: {weight: 0.8}}, sgd]"
TARGETS = ("loss", "output")


class GradientNorm(SAM):
    """A step by ∇L + c (∇G(w + ρ g / ‖g‖) - g), g = ∇G(w): the gradient of L + c ρ ‖∇G‖, to first order in ρ.

    G is what shall be flat. Of the loss itself, c = 1 is `SAM`, and c below 1 the penalty of Zhao et al. (ICML 2022,
    arXiv 2202.03599), who take c = 0.8 where SAM takes 1. Of the output it is the constraint of IGNITE, made for
    regression with one output, whose mean is their G; for a classifier there is no such number, and the mean over a
    batch of the largest logit is our reading (the mean of all logits moves nothing that matters).

    With a `bound` ε, c is the multiplier of ρ ‖∇G‖ ≤ ε: it starts at `weight`, and after each step becomes
    max(0, c + η (ρ ‖g‖ - ε)). (The authors' code lets it fall below 0. Their λ ρ / r is c, with their ρ = r, as in
    their settings λ = ε = η = 0.001, r = 0.05.) It is saved with the optimizer.

    Everything that `SAM` says of the closure, of weights that do not learn, of the running statistics and of several
    processes holds here. The closure runs twice, for the output three times: once more, with the gradient of G in
    place of that of the loss flowing back from the model's answers, in each of its calls in train mode. A limit on the
    gradient inside of the closure acts on each of these gradients, not on their sum.

    Args:
        inner: the optimizer that steps by that gradient, from w.
        rho: ρ, how far away the other point is, 0 or more; 0 is the optimizer inside.
        weight: c, 0 or more; 0 without a bound is the optimizer inside, in one pass.
        target: what shall be flat, "loss" or "output".
        bound: ε, above 0, or None: c stays.
        dual_rate: η, the rate of the multiplier, above 0.
        model: whose running statistics are left alone, as of `SAM`; for the output whose answers are read.

    Raises:
        ValueError: for values out of range; a step without a closure; for the output, a step without a model, with one
            that the closure does not call in train mode, or whose answers are not logits [B, C].

    Source: Dao, Nguyen, Truong and Hoang, "Incorporating Surrogate Gradient Norm to Improve Offline Optimization
        Techniques", NeurIPS 2024, arXiv 2503.04242.
    """

    def __init__(
        self,
        inner: Optimizer,
        rho: float = 0.05,
        weight: float = 0.8,
        target: str = "loss",
        bound: float | None = None,
        dual_rate: float = 1e-3,
        model: nn.Module | None = None,
    ) -> None:
        super().__init__(inner, rho, model)
        if not 0 <= weight < math.inf:
            raise ValueError(f"weight is a number, 0 or more, got {weight}")
        if target not in TARGETS:
            raise ValueError(f"target is {' or '.join(TARGETS)}, what shall be flat, not {target!r}")
        for name, value in (("bound", bound), ("dual_rate", dual_rate)):
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} is a number above 0, got {value}")
        self.weight = weight
        self.target = target
        self.bound = bound
        self.dual_rate = dual_rate
        idle = weight == 0 and bound is None
        self.passes = 1 if idle else 3 if target == "output" else 2
        self.reads_outputs = target == "output" and not idle

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move the weights; `closure` computes the loss and its gradients, once or more. Gives the loss at w."""
        if closure is None:
            raise ValueError(
                "GradientNorm computes the gradients of a step more than once: hand step() the closure that does, "
                "zeroes them before and gives the loss"
            )
        if self.passes == 1:
            return self.inner.step(closure)
        before = [each.clone() for each in self._statistics()]
        with torch.enable_grad():
            loss = closure()
        of_loss = {p: p.grad.clone() for group in self.param_groups for p in group["params"] if p.grad is not None}
        weights, flat = self._learning(), closure
        if self.reads_outputs:
            flat = self._of_output(closure)
            self._set_statistics(before)
            with torch.enable_grad():
                flat()
            weights = self._of_model()
        here = [p.grad.clone() for p in weights if p.grad is not None]
        norm = self._nearby(flat, weights, before)
        self._add(of_loss, weights, here, self._multiplier(norm))
        self.inner.step()
        return loss

    @torch.no_grad()
    def _add(
        self, of_loss: dict[nn.Parameter, Tensor], weights: list[nn.Parameter], here: list[Tensor], c: float | Tensor
    ) -> None:
        """The gradient of the loss, and c times the difference of the two of G."""
        there = [p.grad for p in weights]
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = of_loss.get(p)
        for p, start, end in zip(weights, here, there, strict=True):
            if p.grad is None or end is None:
                continue
            share = c.to(start) if isinstance(c, Tensor) else c
            if self.reads_outputs:
                p.grad.add_((end - start).mul_(share))
            else:
                p.grad = torch.lerp(start, end, share)  # for c = 1 SAM's to the bit

    def _multiplier(self, norm: Tensor) -> float | Tensor:
        """c of this step; with a bound the next one is worked out too, on the device."""
        if self.bound is None:
            return self.weight
        group = self.param_groups[0]  # which is saved with the optimizer inside
        c = torch.as_tensor(group.get("multiplier", self.weight), dtype=torch.float32, device=norm.device)
        group["multiplier"] = (c + self.dual_rate * (self.rho * norm - self.bound)).clamp(min=0)
        return c

    def _of_model(self) -> list[nn.Parameter]:
        assert self.model is not None
        inside = {id(p) for p in self.model.parameters()}
        return [p for p in self._learning() if id(p) in inside]

    def _of_output(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        """The closure, with the gradients of G in place of those of the loss."""
        if (model := self.model) is None:
            raise ValueError('target "output" reads what the model puts out: GradientNorm(..., model=model)')

        def flat() -> None:
            with _largest_flows_back(model):
                closure()

        return flat


class _Largest(torch.autograd.Function):
    """Logits `[B, C]` as they are; backward the gradient of the mean of each row's largest, whatever the loss says."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor) -> Tensor:
        ctx.save_for_backward(logits.argmax(1, keepdim=True))
        return logits.view_as(logits)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (largest,) = ctx.saved_tensors
        return torch.zeros_like(gradient).scatter_(1, largest, 1 / len(gradient))


@contextmanager
def _largest_flows_back(model: nn.Module) -> Iterator[None]:
    calls = []

    def hook(module: nn.Module, inputs: Any, logits: Any) -> Any:
        if not module.training or not torch.is_grad_enabled():
            return None
        if not (isinstance(logits, Tensor) and logits.ndim == 2):
            shape = list(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f'target "output" takes a model with logits [B, C], this one puts out {shape}')
        calls.append(len(logits))
        return _Largest.apply(logits)

    handle = model.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
    if not calls:
        raise ValueError(
            'target "output" reads what the model puts out, and the closure did not call it in train mode: hand over '
            "the model that the loss is computed with, not compiled"
        )
