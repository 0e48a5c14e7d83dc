"""The head of a network: the last layer, which is replaced for new classes."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.last_layer import last_layer
from kedge.anchoring.twin import evaluating
from kedge.data import generator

__all__ = ["find_head", "layer_of_classes", "with_head"]

SCALE = 0.01  # standard deviation of the weights of a fresh head: its first answers are close to even


def find_head(model: PixelModel, name: str | None = None) -> str:
    """The name of the layer inside `model.network` whose output is the logits: a linear layer or a 1 × 1 convolution.

    It is found by running the network: the layer for which W·features + b is what the model returns. A `name` is taken
    at its word, if there is such a layer with as many outputs as the model has.

    A warning says so where the outputs of a named layer are not the logits, as where an activation follows it: a probe
    then fits what the model does not return.

    Raises:
        ValueError: if there is none; the message lists the layers that could be named.
    """
    layers = {n: m for n, m in model.network.named_modules() if _width(m) is not None}
    fitting = [n for n, m in layers.items() if _width(m) == model.num_outputs]
    if name is not None and (name not in layers or _width(layers[name]) != model.num_outputs):
        what = "no such linear layer" if name not in layers else f"{_width(layers[name])} outputs"
        raise ValueError(
            f"head {name!r}: the network has {what}; the head has {model.num_outputs} outputs, as the model. "
            f"{_offered(fitting)}"
        )
    images = torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0)).to(model.mean)
    last = last_layer(model, images)
    if name is not None:
        if layers[name] is not last:
            warnings.warn(
                f"what {name} computes is not what the model returns, something follows it: a probe of its inputs need "
                "not be right about the outputs; finetune is",
                stacklevel=2,
            )
        return name
    for each, layer in layers.items():
        if layer is last:
            return each
    raise ValueError(
        f"no head was found in {type(model.network).__name__}: tried {', '.join(reversed(layers)) or 'nothing'}, and "
        f"of none is W·features + b what the model returns (several heads, cosines, ordered classes, something after "
        f"the last layer?). {_offered(fitting)}"
    )


def layer_of_classes(model: PixelModel) -> str:
    """The name of the layer inside `model.network` that gives the classes: as `find_head`, else one of `kedge.heads`.

    Raises:
        ValueError: if there is none, as `find_head`.
    """
    try:
        return find_head(model)
    except ValueError:
        for name, module in model.network.named_modules():
            if type(module).__module__.startswith("kedge.heads."):
                return name
        raise


def with_head(
    model: PixelModel,
    head: str,
    class_names: Sequence[str],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    seed: int = 0,
) -> PixelModel:
    """A copy of `model` for other classes: `weight` `[C, D]` and `bias` `[C]` as its head, or a fresh, small one.

    The temperature and the rules for unsure and unknown are left out: they were fitted to other logits.
    """
    model_with = copy.deepcopy(model)
    old: Any = model_with.network.get_submodule(head) if head else model_with.network
    classes, like = len(class_names), old.weight
    new: Any
    if isinstance(old, nn.Linear):
        new = nn.Linear(old.in_features, classes, bias=old.bias is not None)
    else:
        kind = type(old)
        new = kind(old.in_channels, classes, 1, bias=old.bias is not None)
    with torch.no_grad():
        if weight is None:
            new.weight.normal_(0, SCALE, generator=generator(seed, "head"))
        else:
            new.weight.copy_(weight.view_as(new.weight))
        if new.bias is not None:
            new.bias.copy_(torch.zeros(classes) if bias is None else bias)
    new = new.to(like.device, like.dtype).train(old.training)
    if head:
        model_with.network.set_submodule(head, new)
    else:
        model_with.network = new
    recorded: Any = getattr(model_with.network, "kedge_architecture", None)
    if recorded is not None:
        arguments = {**recorded["arguments"], "num_classes": classes}
        model_with.network.kedge_architecture = {**recorded, "arguments": arguments}  # type: ignore[assignment]
    if hasattr(model_with.network, "num_classes"):
        model_with.network.num_classes = classes  # type: ignore[assignment]
    model_with.num_outputs, model_with.class_names = classes, list(class_names)
    model_with.ordered = False  # an order of other classes is none of these
    model_with.steps, model_with.reject, model_with.unknown = {}, None, None
    images = torch.zeros(1, *model_with.input_shape).to(model_with.mean)
    try:
        with torch.no_grad(), evaluating(model_with):
            shape = list(model_with(images).shape)
    except RuntimeError as error:
        raise ValueError(f"head {head!r} is not the last layer: with {classes} outputs, {error}") from error
    if shape != [1, classes]:
        raise ValueError(f"head {head!r} is not the last layer: with {classes} outputs the model returns {shape}")
    return model_with


def _width(layer: nn.Module) -> int | None:
    """Outputs of a layer that may be a head; None for any other layer."""
    if isinstance(layer, nn.Linear):
        return layer.out_features
    pointwise = isinstance(layer, nn.Conv1d | nn.Conv2d) and set(layer.kernel_size) == {1} and layer.groups == 1
    return layer.out_channels if pointwise else None  # type: ignore[return-value]


def _offered(names: list[str]) -> str:
    return f"Name one with head: {', '.join(names)}" if names else "No layer of it has so many outputs"
