"""From cumulative logits of ordered classes to the logarithms of their probabilities."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST = 1e-6  # the least distance between two boundaries that a class between them is counted with


def log_probabilities(cumulative: Tensor) -> Tensor:
    """ln P(y = k) `[B, K]` from logits c_k of P(y ≤ k) `[B, K - 1]`, in float32 or wider.

    P(y = k) = σ(c_k) - σ(c_(k-1)) = σ(c_k) σ(-c_(k-1)) (1 - exp(c_(k-1) - c_k)), of which the logarithm is taken factor
    by factor: it neither cancels nor overflows. Where boundaries cross, c_k < c_(k-1) + 1e-6, the last factor is that
    of a distance of 1e-6: the class is as good as impossible, the sum is no longer 1 (a softmax makes it 1 again), and
    the gradient of the first two factors still parts the boundaries.
    """
    cumulative = cumulative.to(torch.promote_types(cumulative.dtype, torch.float32))
    # Not logsigmoid, which exported files compute as the logarithm of a sigmoid that is 0 for -100.
    below, above = -F.softplus(-cumulative), -F.softplus(cumulative)
    distance = (cumulative[:, 1:] - cumulative[:, :-1]).clamp_min(SMALLEST)
    # Not expm1, which exported files compute as exp - 1: 1e-6 would lose its digits.
    near = distance * (1 - distance / 2 * (1 - distance / 3 * (1 - distance / 4)))
    apart = torch.where(distance < 0.03, near, 1 - (-distance).exp())
    between = below[:, 1:] + above[:, :-1] + apart.log()
    return torch.cat([below[:, :1], between, above[:, -1:]], dim=1)


def even_boundaries(outputs: int, name: str) -> Tensor:
    """The logits of 1/K, 2/K, ..., `[K - 1]`: boundaries at which all classes are equally likely.

    Raises:
        ValueError: for fewer than two classes.
    """
    if outputs < 2:
        raise ValueError(f"{name} is for two ordered classes or more, not for {outputs}")
    return torch.tensor([math.log(k / (outputs - k)) for k in range(1, outputs)])


def softplus_inverse(values: Tensor) -> Tensor:
    """x with ln(1 + e^x) = `values`, above 0."""
    return values + (-torch.expm1(-values)).log()
