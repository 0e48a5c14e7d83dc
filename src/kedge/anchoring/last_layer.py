"""The last layer of a network: what it reads are the features, and logits = W·features + b."""

import threading
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any
from weakref import ReferenceType, WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from kedge.anchoring.twin import in_eval

# The last layer of a model, and the layers it was chosen among: another head is searched for again.
_searched: WeakKeyDictionary[nn.Module, tuple[list[int], ReferenceType[nn.Module] | None]] = WeakKeyDictionary()


@torch.no_grad()
def last_layer(model: Callable[[Tensor], Any], example: Tensor) -> nn.Module | None:
    """The affine layer of `model` whose output is the logits: a linear layer, or a convolution of 1 × 1.

    It is found by running the first two images of `example` `[B, C, H, W]`, in eval mode: the layer that runs once and
    whose W·features + b is what the model returns before its steps, up to a positive factor (a temperature of the
    network's own), where features are the layer's input, averaged over positions if it has any. None for a callable
    that is no module, and for a network without such a layer (two heads that are averaged, or an activation after the
    last layer). A model is searched once.
    """
    if not isinstance(model, nn.Module):
        return None
    candidates = [m for m in model.modules() if isinstance(m, nn.Linear) or _is_pointwise(m)]
    identities = [id(m) for m in candidates]
    known = _searched.get(model)
    if known is None or known[0] != identities:
        if len(example) == 0:
            return None
        layer = _search(model, candidates, example[:2])
        known = _searched[model] = identities, None if layer is None else ref(layer)
    return None if known[1] is None else known[1]()


def affine(layer: Any) -> tuple[Tensor, Tensor]:
    """Weight `[C, D]` and bias `[C]` (zeros for a layer without) of a linear layer or a 1 × 1 convolution."""
    weight = layer.weight.detach().flatten(1)
    return weight, weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach()


def inputs_of(layer: nn.Module, inputs: Tensor) -> Tensor:
    """Features `[B, D]`: what `layer` read, averaged over its positions, which commutes with an affine layer."""
    if isinstance(layer, nn.Linear):
        return inputs if inputs.ndim == 2 else inputs.flatten(1, -2).mean(1)
    return inputs.flatten(2).mean(2)


def _is_pointwise(module: nn.Module) -> bool:
    return (
        isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
        and set(module.kernel_size) == {1}
        and set(module.stride) == {1}
        and (module.padding in ("same", "valid") or not any(module.padding))
        and module.groups == 1
    )


def _search(model: nn.Module, candidates: list[nn.Module], example: Tensor) -> nn.Module | None:
    calls: list[tuple[int, Tensor]] = []  # no module within a hook's reach: see `in_eval`
    thread = threading.get_ident()

    def read(_: nn.Module, inputs: tuple[Tensor, ...], place: int) -> None:
        if inputs and threading.get_ident() == thread:
            calls.append((place, inputs[0].detach()))

    with ExitStack() as hooks:
        for i, module in enumerate(candidates):
            hooks.enter_context(module.register_forward_pre_hook(partial(read, place=i)))
        # Without the steps of a model of kedge: what the layer explains is what the network says.
        quiet = hooks.enter_context(in_eval(model))
        logits = getattr(quiet, "network_logits", quiet)(example)
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        return None
    for place, inputs in reversed(calls):
        layer = candidates[place]
        once = sum(other == place for other, _ in calls) == 1
        if once and _explains(layer, inputs, logits):
            return layer
    return None


def _explains(layer: Any, inputs: Tensor, logits: Tensor) -> bool:
    weight, bias = affine(layer)
    if len(weight) != logits.shape[1] or inputs.ndim < 2:
        return False
    features = inputs_of(layer, inputs)
    if features.shape != (len(logits), weight.shape[1]):
        return False
    expected = (features.float() @ weight.float().T + bias.float()).nan_to_num(0)
    actual = logits.float().nan_to_num(0)
    # A network may divide the layer's outputs by a temperature of its own.
    factor = float((expected * actual).sum() / expected.square().sum().clamp(min=1e-30))
    half = logits.dtype in (torch.float16, torch.bfloat16)
    slack = (0.05 if half else 5e-3) * max(float(actual.abs().max()), 1e-30)
    return factor > 0 and float((factor * expected - actual).abs().max()) <= slack
