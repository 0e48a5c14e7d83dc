"""Find the first layer of a network that sees the input, and check that it is affine in it."""

from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kedge.anchoring.bare_network import run


def weighted_layers(network: nn.Module) -> dict[str, nn.Module]:
    """The modules that own weights and have no children: where a network's arithmetic happens."""
    layers = {}
    for name, module in network.named_modules():
        children = [child for child, _ in module.named_children() if child != "parametrizations"]
        if not children and any(True for _ in module.parameters()):
            layers[name] = module
    return layers


def arrivals(network: nn.Module, inputs: Tensor) -> list[tuple[str, Tensor]]:
    """Run `network` and list what arrives at each weighted layer, `(name, tensor)`, in the order of the calls."""
    arrived: list[tuple[str, Tensor]] = []

    def watch(name: str) -> Any:
        def hook(module: nn.Module, args: tuple[Any, ...]) -> None:
            if len(args) > 0 and isinstance(args[0], Tensor):
                arrived.append((name, args[0].detach()))

        return hook

    with ExitStack() as hooks:
        for name, module in weighted_layers(network).items():
            hooks.enter_context(module.register_forward_pre_hook(watch(name)))
        run(network, inputs, "the model")
    return arrived


def find_first_layer(network: nn.Module, example: Tensor, name: str | None = None) -> tuple[str, Tensor]:
    """Name the layer to anchor and give what arrives there; `network` is in eval mode, without gradients.

    Args:
        network: the network, fed normalised inputs.
        example: a normalised batch `[B, ...]`, B >= 2.
        name: the layer's name, if the caller knows it; found by running the network otherwise.

    Raises:
        ValueError: if there is no such layer, or it is not affine; the message lists what was tried.
    """
    first, second = arrivals(network, example), arrivals(network, _random(example))
    # A layer may run before the stem on something else than the image (a position table, say).
    order = [
        (called, value)
        for (called, value), (_, other) in zip(first, second, strict=False)
        if value.shape != other.shape or not torch.equal(value, other)
    ]
    calls = [called for called, _ in order]
    if name is not None:
        known = dict(network.named_modules())
        if name not in known:
            raise ValueError(f"first_layer={name!r} is not a module of the model; {_tried(network, calls, {})}")
        if name not in calls:
            raise ValueError(
                f"first_layer={name!r} ({type(known[name]).__name__}) has no weights of its own or is not "
                f"called with the image; {_tried(network, calls, {})}"
            )
    elif not calls:
        raise ValueError(
            "no layer with weights of its own sees the image, so there is nothing to anchor "
            f"(the model is a {type(network).__name__}); name it with first_layer="
        )
    chosen = calls[0] if name is None else name
    arriving = dict(reversed(order))[chosen]
    why = _not_affine(network.get_submodule(chosen), arriving)
    if why is None and calls.count(chosen) > 1:
        why = f"is called {calls.count(chosen)} times in one forward pass"
    if why is not None:
        raise ValueError(
            "the first layer that sees the image must be affine in it to be anchored; "
            + _tried(network, calls, {chosen: why})
            + ". If the model normalises its input with a layer of its own, drop that layer and pass mean= and std="
        )
    return chosen, arriving


def _not_affine(layer: nn.Module, arriving: Tensor) -> str | None:
    """Why `layer` is not affine in its input, or None: checks f(a) + f(b) = f(a + b) + f(0)."""
    if isinstance(layer, _BatchNorm):
        return "normalises by batch statistics, so it is not affine in training"
    if not arriving.is_floating_point():
        return f"takes {arriving.dtype}, not the image itself"
    a, b = _random(arriving) - 0.5, arriving
    parts = [layer(a), layer(b), layer(a + b), layer(torch.zeros_like(arriving))]
    if not all(isinstance(part, Tensor) for part in parts):
        return f"returns {type(parts[0]).__name__}, not one tensor"
    f_a, f_b, f_sum, f_zero = (part.float() for part in parts)
    deviation = float((f_a + f_b - f_sum - f_zero).abs().max() / f_sum.abs().max().clamp_min(1e-12))
    tolerance = 1e-3 if arriving.dtype in (torch.float32, torch.float64) else 0.05
    return None if deviation <= tolerance else f"is not affine (relative deviation {deviation:.2g})"


def _random(like: Tensor) -> Tensor:
    """Uniform values in the shape of `like`, without a draw from torch's global generator."""
    generator = torch.Generator().manual_seed(1)
    return torch.rand(like.shape, generator=generator).to(like)


def _tried(network: nn.Module, calls: list[str], verdicts: dict[str, str]) -> str:
    names = list(dict.fromkeys([*calls[:6], *verdicts]))
    lines = [
        f"{name or '(the model itself)'} ({type(network.get_submodule(name)).__name__})"
        + (f" {verdicts[name]}" if name in verdicts else "")
        for name in names
    ]
    return "layers seen in order of the calls: " + "; ".join(lines or ["none"])
