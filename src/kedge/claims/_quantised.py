"""Weights of few bits: rounding, scales, what layers are fitted to, and how many bits each layer gets."""

import copy
import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kedge.metrics import prediction_difference

__all__ = ["adaquant", "allocated", "anew", "by_difference", "layers_of", "quantised", "random_allocations", "rounded"]

FRACTIONS = [0.1 + 0.025 * i for i in range(37)]  # of the largest weight, down to which the range is cut
BITS = (2, 4, 8)


def layers_of(network: nn.Module) -> list[str]:
    """The names of the layers whose weights are rounded."""
    return [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]


def layer_of(network: nn.Module, name: str) -> Any:
    """The layer of a name."""
    return network.get_submodule(name)


def rounded(weight: Tensor, largest: Tensor, bits: int) -> Tensor:
    """Weights on the 2^bits - 1 even steps between -largest and largest, one of these for each output channel."""
    steps = 2 ** (bits - 1) - 1
    scale = (largest / steps).reshape(-1, *[1] * (weight.ndim - 1))
    return (weight / scale).round().clamp(-steps, steps) * scale


def widest(weight: Tensor) -> Tensor:
    """The largest weight of each channel."""
    return weight.flatten(1).abs().amax(1).clamp(min=1e-8)


def by_error(weight: Tensor, bits: int) -> Tensor:
    """The range of each channel with the least squared error of its weights."""
    tried = torch.stack([widest(weight) * fraction for fraction in FRACTIONS])
    errors = torch.stack([(rounded(weight, each, bits) - weight).flatten(1).square().sum(1) for each in tried])
    return tried.gather(0, errors.argmin(0, keepdim=True))[0]


@torch.no_grad()
def by_difference(network: nn.Module, bits: int, images: Tensor) -> nn.Module:
    """Layer by layer the share of the range with the least prediction difference of the whole network (PD-Quant)."""
    logits, made = network(images), copy.deepcopy(network)
    for name in layers_of(network):
        layer = layer_of(made, name)
        weight: Tensor = layer.weight.clone()
        tried = []
        for fraction in FRACTIONS:
            layer.weight.copy_(rounded(weight, widest(weight) * fraction, bits))
            tried.append(float(prediction_difference(logits, made(images))))
        best = FRACTIONS[tried.index(min(tried))]
        layer.weight.copy_(rounded(weight, widest(weight) * best, bits))
    return made


@torch.no_grad()
def quantised(network: nn.Module, bits: Sequence[int]) -> nn.Module:
    """A copy whose layers have so many bits each, in ranges of least error."""
    made = copy.deepcopy(network)
    for name, own in zip(layers_of(network), bits, strict=True):
        layer = layer_of(made, name)
        weight: Tensor = layer.weight
        weight.copy_(rounded(weight, by_error(weight, own), own))
    return made


def adaquant(network: nn.Module, bits: int, images: Tensor, steps: int = 300) -> nn.Module:
    """Layer by layer weights, ranges and biases fitted to what the layer puts out in float, for the inputs it gets now.

    The rounding passes gradients straight through (AdaQuant: Adam on all three, of the squared error of the outputs).
    """
    made = quantised(network, [bits] * len(layers_of(network)))
    for name in layers_of(network):
        target = _read(network, name, images)[1]
        inputs = _read(made, name, images)[0]
        layer = layer_of(made, name)
        start: Tensor = layer_of(network, name).weight.detach()
        weight = start.clone().requires_grad_()
        largest = by_error(start, bits).log().requires_grad_()
        bias = layer.bias.detach().clone().requires_grad_()
        optimizer = torch.optim.Adam([{"params": [weight], "lr": 3e-3}, {"params": [largest, bias], "lr": 1e-2}])
        best, least = (layer.weight.clone(), layer.bias.clone()), float("inf")
        for _ in range(steps):
            now = _straight(weight, largest.exp(), bits)
            optimizer.zero_grad()
            loss = F.mse_loss(_applied(layer, inputs, now, bias), target)
            if float(loss.detach()) < least:  # the last of the steps is not the best: rounded weights jump
                best, least = (now.detach(), bias.detach().clone()), float(loss.detach())
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            layer.weight.copy_(best[0])
            layer.bias.copy_(best[1])
    return made


def _straight(weight: Tensor, largest: Tensor, bits: int) -> Tensor:
    """As `rounded`, with gradients for weights and ranges as if nothing were rounded to the nearest step."""
    steps = 2 ** (bits - 1) - 1
    scale = (largest / steps).reshape(-1, *[1] * (weight.ndim - 1))
    place = (weight / scale).clamp(-steps, steps)
    return (place + (place.round() - place).detach()) * scale


def _applied(layer: Any, inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    if isinstance(layer, nn.Conv2d):
        return F.conv2d(inputs, weight, bias, layer.stride, layer.padding)
    return F.linear(inputs, weight, bias)


@torch.no_grad()
def _read(network: nn.Module, name: str, images: Tensor) -> tuple[Tensor, Tensor]:
    """What a layer reads and puts out."""
    seen: list[tuple[Tensor, Tensor]] = []
    handle = network.get_submodule(name).register_forward_hook(lambda m, i, o: seen.append((i[0], o)))
    network(images)
    handle.remove()
    return seen[0]


@torch.no_grad()
def anew(network: nn.Module, images: Tensor) -> nn.Module:
    """A copy whose BatchNorm statistics are those of these images."""
    made = copy.deepcopy(network)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the mean of all batches
            module.train()
    for batch in images.split(64):
        made(batch)
    return made.eval()


def allocated(network: nn.Module, mean_bits: float, images: Tensor) -> tuple[int, ...]:
    """Bits of each layer with the least sum of prediction differences, one layer rounded at a time, within the mean."""
    logits, layers = network(images).detach(), layers_of(network)
    costs: list[dict[int, float]] = []
    for place in range(len(layers)):
        own = {}
        for bits in BITS:
            made = quantised(network, [bits if other == place else 16 for other in range(len(layers))])
            own[bits] = float(prediction_difference(logits, made(images).detach()))
        costs.append(own)
    return min(_within(network, mean_bits), key=lambda each: sum(c[b] for c, b in zip(costs, each, strict=True)))


def random_allocations(
    network: nn.Module, mean_bits: float, count: int, draws: torch.Generator
) -> list[tuple[int, ...]]:
    """So many allocations within the mean, of those that no layer could have more bits in."""
    options = _within(network, mean_bits)
    full = [each for each in options if not any(_more(other, each) for other in options)]
    return [full[int(i)] for i in torch.randint(len(full), (count,), generator=draws)]


def _more(one: Sequence[int], other: Sequence[int]) -> bool:
    """Whether an allocation has as many bits as another in every layer, and more in one."""
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def _within(network: nn.Module, mean_bits: float) -> list[tuple[int, ...]]:
    sizes = [layer_of(network, name).weight.numel() for name in layers_of(network)]
    every = itertools.product(BITS, repeat=len(sizes))
    return [each for each in every if sum(s * b for s, b in zip(sizes, each, strict=True)) <= mean_bits * sum(sizes)]
