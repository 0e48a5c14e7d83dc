"""A network from elsewhere: what it takes and returns, and the normalisation that it expects."""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.checks import PROBABILITIES, looks_like_probabilities


def check_module(model: Any, who: str) -> None:
    """Raise TypeError unless `model` is a network."""
    if not isinstance(model, nn.Module):
        other = f"the text {model!r}" if isinstance(model, str) else type(model).__name__
        raise TypeError(
            f"{who} takes a network (torch.nn.Module), got {other}; timm.create_model or kedge.networks.create makes "
            "one of its name"
        )


def warn_of_probabilities(outputs: Tensor, task: str) -> None:
    """Warn where what a classifier returns `[B, C]` looks like probabilities and not like logits."""
    if task == "classification" and looks_like_probabilities(outputs):
        warnings.warn(f"careful: {PROBABILITIES}", stacklevel=3)


def run(network: nn.Module, inputs: Tensor, what: str) -> Tensor:
    """Run `network` and insist on outputs `[B, C]`; failures say which input was given."""
    try:
        outputs = network(inputs)
    except Exception as error:
        raise ValueError(
            f"{what} could not be run on an input of shape {list(inputs.shape)}: {type(error).__name__}: {error}. "
            "Pass example= with an input that it takes"
        ) from error
    if not isinstance(outputs, Tensor) or outputs.ndim != 2 or len(outputs) != len(inputs):
        other = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
        raise ValueError(
            f"{what} must return one tensor [B, C], got {other} for an input of shape {list(inputs.shape)}; "
            "wrap it in a module that returns the logits alone"
        )
    return outputs


def resolve_shape(
    model: nn.Module, example: Tensor | Sequence[int] | None, references: Tensor | None
) -> tuple[int, ...]:
    """The shape of one input: from `example` (a batch, or a shape), else `references`, else timm's `pretrained_cfg`."""
    if isinstance(example, Tensor):
        if example.ndim < 2:
            raise ValueError(f"example must be a batch, [B, C, H, W] or [B, D], got {list(example.shape)}")
        return tuple(example.shape[1:])
    if example is not None:
        return tuple(int(n) for n in example)
    if references is not None:
        return tuple(references.shape[1:])
    config = getattr(model, "pretrained_cfg", None)
    if not config or not config.get("input_size"):
        raise ValueError(
            f"the input shape of {type(model).__name__} is not known: pass example=, a batch of images "
            "[B, C, H, W] (or [B, D] for vectors), or its shape without the batch, e.g. example=(3, 224, 224)"
        )
    channels, height, width = config["input_size"]
    # timm leaves the pre-training channel count and size in the config when in_chans or img_size override them.
    arguments = getattr(model, "_model_args", {})
    channels = arguments.get("in_chans", channels)
    size = arguments.get("img_size")
    if size is not None:
        height, width = (size, size) if isinstance(size, int) else size
    return channels, height, width


def published_normalisation(network: nn.Module, channels: int) -> tuple[list[float], list[float]] | None:
    """Mean and std, one for each of `channels`, that the network's `pretrained_cfg` names; None where it names none.

    For other channels than three they follow what timm does to the first layer's weights (`adapt_input_conv`): one
    channel gets the sum of the three weights, so the mean of the three values; channel i of several the weights of
    channel i mod 3, so its values too.
    """
    config = getattr(network, "pretrained_cfg", None) or {}
    mean, std = ([float(value) for value in config.get(name) or ()] for name in ("mean", "std"))
    if not mean or len(mean) != len(std):
        return None
    if channels == 1:
        return [sum(mean) / len(mean)], [sum(std) / len(std)]
    return [mean[i % len(mean)] for i in range(channels)], [std[i % len(std)] for i in range(channels)]


def resolve_normalisation(
    model: nn.Module,
    shape: Sequence[int],
    mean: Sequence[float] | float | None,
    std: Sequence[float] | float | None,
) -> tuple[Tensor, Tensor]:
    """Mean and std as `[1, C, 1, 1]` (or `[1, D]`), from the arguments, else `pretrained_cfg`, else 0 and 1."""
    published = published_normalisation(model, shape[0]) if len(shape) > 1 else None
    published_mean, published_std = published or (0.0, 1.0)
    tensor = next((t for t in [*model.parameters(), *model.buffers()] if t.is_floating_point()), torch.empty(0))
    tensors = []
    for name, values, default in (("mean", mean, published_mean), ("std", std, published_std)):
        values = default if values is None else values
        flat = torch.as_tensor(values, dtype=torch.float32).flatten()
        if len(flat) not in (1, shape[0]):
            raise ValueError(f"{name} must have 1 or {shape[0]} values, one for each channel, got {len(flat)}")
        if len(shape) > 1 and bool((flat.abs() > 5).any()):
            raise ValueError(f"{name} is in units of images in [0, 1], got {flat.tolist()}; divide by 255?")
        if name == "std" and not bool((flat > 0).all()):
            raise ValueError(f"std must be positive, got {flat.tolist()}")
        flat = flat.expand(shape[0]) if len(shape) > 1 else flat
        tensors.append(flat.reshape(1, -1, *[1] * (len(shape) - 1)).to(tensor.device, tensor.dtype).clone())
    return tensors[0], tensors[1]
