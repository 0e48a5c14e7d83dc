"""Two groups of images whose losses move against each other from one step to the next."""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.seeds import generator

__all__ = ["Opposing", "edge_losses", "largest_rise", "opposing_groups"]

info = Info(
    "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization", "Rosenfeld & Risteski",
    "ICLR", 2024, "https://arxiv.org/abs/2311.04163", "abstract",
)  # fmt: skip
WIDTH, RATE, STEPS = 100, 0.12, 400


@dataclass(frozen=True)
class Opposing:
    """The images whose loss changes most in one step.

    Attributes:
        worse, better: places of those whose loss rises and falls most, long `[k]`, the most first.
        change: of each image, `[N]`.
        carried: the share of all change, Σ|Δ|, that the 2 % of images with the largest change carry.
    """

    worse: Tensor
    better: Tensor
    change: Tensor
    carried: float


def opposing_groups(before: Tensor, after: Tensor, k: int = 12) -> Opposing:
    """The k images whose loss rises most and the k whose loss falls most between two steps.

    Args:
        before, after: the loss of each image at two steps in a row, `[N]`.
        k: images in a group, fewer where fewer rise or fall.

    Raises:
        ValueError: losses of different images, that are not finite, or a `k` below 1.
    """
    if before.shape != after.shape or before.ndim != 1 or not len(before):
        raise ValueError(
            f"losses of the same images at two steps, [N] each, got {list(before.shape)} and {list(after.shape)}"
        )
    if k < 1:
        raise ValueError(f"a group has an image or more, got k = {k}")
    change = after.double() - before.double()
    if not bool(change.isfinite().all()):
        raise ValueError("losses that are not finite: the training diverged")
    order = change.argsort(descending=True, stable=True)
    worse, better = order[:k], order.flip(0)[:k]
    size = change.abs()
    largest = size.topk(max(1, round(0.02 * len(size)))).values
    return Opposing(
        worse[change[worse] > 0],
        better[change[better] < 0],
        change,
        float(largest.sum() / size.sum().clamp(min=1e-300)),
    )


def largest_rise(losses: Tensor) -> int | None:
    """The step t at which the mean of losses `[T, N]` rises most to t + 1; None where it never rises."""
    rises = losses.double().mean(1).diff()
    return int(rises.argmax()) if len(rises) and float(rises.max()) > 0 else None


def edge_losses(
    features: Tensor, labels: Tensor, classes: int, steps: int = STEPS, rate: float = RATE, seed: int = 0
) -> Tensor:
    """The loss of each image at each step `[steps, N]` of gradient descent on all images at once, in float32.

    A network with two hidden layers of 100 units. At a constant rate such training reaches the edge of stability, where
    the loss rises at some steps. The rate is halved and training begun anew where it diverges.
    """
    for halving in range(6):
        losses = _descended(features, labels, classes, steps, rate / 2**halving, seed)
        if bool(losses.isfinite().all()):
            return losses
    raise ValueError("training on all images at once diverged at every rate that was tried")


def _descended(features: Tensor, labels: Tensor, classes: int, steps: int, rate: float, seed: int) -> Tensor:
    draws, sizes = generator(seed, "edge"), (features.shape[1], WIDTH, WIDTH, classes)
    weights = []
    for inputs, outputs in pairwise(sizes):
        bound = inputs**-0.5
        weights.append(nn.Parameter((2 * torch.rand(inputs, outputs, generator=draws) - 1) * bound))
        weights.append(nn.Parameter((2 * torch.rand(outputs, generator=draws) - 1) * bound))
    rows = []
    for _ in range(steps):
        hidden = features
        for i in range(0, 6, 2):
            hidden = hidden @ weights[i] + weights[i + 1]
            hidden = F.relu(hidden) if i < 4 else hidden
        loss = F.cross_entropy(hidden, labels, reduction="none")
        rows.append(loss.detach())
        gradients = torch.autograd.grad(loss.mean(), weights)
        with torch.no_grad():
            for weight, gradient in zip(weights, gradients, strict=True):
                weight.sub_(rate * gradient)
    return torch.stack(rows)
