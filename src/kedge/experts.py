"""Several last layers on one body, whose mean is the answer: what `DiverseExperts` and `DivDis` train."""

import torch
from torch import Tensor, nn

__all__ = ["Experts", "experts_of"]


class Experts(nn.Module):
    """H linear layers side by side, features `[B, F]` -> the weighted mean of their logits, `[B, C]`.

    Attributes:
        each: all of them as one layer, `[B, F]` -> `[B, H · C]`.
        weights: `[H]`, how much each counts; 1 / H unless `kedge.expert_weights` set others.
    """

    weights: Tensor

    def __init__(self, features: int, classes: int, heads: int) -> None:
        super().__init__()
        if heads < 2:
            raise ValueError(f"heads is the number of last layers side by side, 2 or more, not {heads}")
        self.heads = heads
        self.each = nn.Linear(features, heads * classes)
        self.register_buffer("weights", torch.full((heads,), 1 / heads))

    def apart(self, together: Tensor) -> Tensor:
        """What `each` put out, `[B, H · C]`, as the logits of every expert `[B, H, C]`."""
        return together.unflatten(1, (self.heads, -1))

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return torch.einsum("h,bhc->bc", self.weights.to(features.dtype), self.apart(self.each(features)))

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"heads={self.heads}"


def experts_of(model: nn.Module, heads: int = 3) -> tuple[str, Experts]:
    """(name of the layer `each`, the experts) of a network or a model; `heads`: how many the message asks for.

    Raises:
        ValueError: if it has no experts, or several times.
    """
    there = [(name, module) for name, module in model.named_modules() if isinstance(module, Experts)]
    if len(there) != 1:
        raise ValueError(
            f"{type(model).__name__} has {'no' if not there else len(there)} layer of experts, last layers side by "
            f"side: one of kedge's residual networks has one with --arguments '{{heads: {heads}}}'"
        )
    name, experts = there[0]
    return f"{name}.each" if name else "each", experts
