"""The registered name and sizes of a model's network, as a model folder holds them, and the network made from that."""

import json
import math
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

from kedge.anchoring import PixelModel
from kedge.anchoring.fold import FoldedStem

# Values that the constants of a folded first layer may have together; a tampered shape must not take the memory.
_LARGEST = 2**28


def describe(model: PixelModel) -> dict[str, Any] | None:
    """What `rebuild` makes the model's network from: library, name, arguments; None (and a warning) without a name.

    A first layer that holds a reference (what `fold` makes) is described too, under "folded".
    """
    network: Any = model.network
    recorded = getattr(network, "kedge_architecture", None)
    name = (getattr(network, "pretrained_cfg", None) or {}).get("architecture")
    if recorded is None and name is None:
        warnings.warn(
            f"{type(network).__name__} has no name in timm or torchvision; kedge.load will need model=, the network "
            "it was made from",
            stacklevel=3,
        )
        return None
    if recorded is not None:
        architecture = json.loads(json.dumps(recorded))
    else:
        arguments = {k: v for k, v in getattr(network, "_model_args", {}).items() if v is not None}
        arguments |= {"num_classes": model.num_outputs, "in_chans": model.input_shape[0]}
        arguments = json.loads(json.dumps(arguments, default=str))
        architecture = {"library": "timm", "name": name, "arguments": arguments}
    stems = [(path, module) for path, module in network.named_modules() if isinstance(module, FoldedStem)]
    if not stems:
        return architecture
    return {**architecture, "folded": {"layer": stems[0][0], **stems[0][1].description()}}


def rebuild(architecture: dict[str, Any]) -> nn.Module:
    """The network that `describe` described, with fresh weights.

    Safe on text from a stranger, as `kedge.networks.rebuild` is. Raises ValueError for anything it does not know.
    """
    from kedge import networks

    if not isinstance(architecture, dict) or "folded" not in architecture:
        return networks.rebuild(architecture)
    network = networks.rebuild({key: value for key, value in architecture.items() if key != "folded"})
    path, plain, shapes = _checked(architecture["folded"])
    try:
        layer = network.get_submodule(path)
    except AttributeError as error:
        raise ValueError(
            f"the network {architecture['name']!r} has no layer {path!r} to fold a reference into"
        ) from error
    if not isinstance(getattr(layer, "weight", None), torch.Tensor) and plain:
        raise ValueError(f"the layer {path!r} of {architecture['name']!r} is none that a reference is folded into")
    network.set_submodule(path, FoldedStem.empty(layer, plain, shapes))
    return network


@contextmanager
def at_most(values: int) -> Iterator[None]:
    """Within, this thread makes no module of more weights than that: MemoryError, in words, before they are written to.

    A tampered width must not take the memory: torch tells of every weight when it gets its name.
    """
    total, thread = 0, threading.get_ident()

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        if parameter is not None and threading.get_ident() == thread:
            total += parameter.numel()
            if total > values:
                raise MemoryError(f"a network of {total:,} values and more")

    with register_module_parameter_registration_hook(count):
        yield


def _checked(folded: Any) -> tuple[str, bool, dict[str, list[int]]]:
    if not isinstance(folded, dict) or set(folded) != {"layer", "plain", "shapes"}:
        raise ValueError(f"a folded first layer has the keys layer, plain and shapes, not {folded!r}")
    path, plain, shapes = folded["layer"], folded["plain"], folded["shapes"]
    right = isinstance(path, str) and path and isinstance(plain, bool) and isinstance(shapes, dict)
    if not right or not set(shapes) <= set(FoldedStem.CONSTANTS):
        raise ValueError(f"not a folded first layer: {folded!r}")
    for name, shape in shapes.items():
        counts = isinstance(shape, list) and all(type(n) is int and 0 < n < 2**31 for n in shape)
        if not counts or math.prod(shape) > _LARGEST:
            raise ValueError(f"the shape of {name} of a folded first layer cannot be {shape!r}")
    return path, plain, shapes


# What fills fresh weights at random; those of torch.nn.init that a mode is asked about before they draw among them.
_DRAWS = (torch.Tensor.normal_, torch.Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.kaiming_uniform_)


class WithoutDraws(TorchFunctionMode):
    """Fresh weights are zeros: those of the file take their place, and drawing them takes longer than all else.

    `kedge.save` compares the outputs of what is built like this with those of the model: a draw that is needed shows.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = kwargs or {}
        if func in _DRAWS:
            return (args[0] if args else named["tensor"]).detach().zero_()
        return func(*args, **named)
