"""How a network's weights lie in memory: channels last, where that is faster and right."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["as_stored", "channels_last"]

REGISTER = 16  # floats in a register of AVX-512; of AVX2 8


def channels_last(network: nn.Module, always: bool = False) -> nn.Module:
    """`network` itself, its weights laid out so that convolutions run faster where they do.

    Measured on a CPU: ResNets and EfficientNets take 0.6 to 0.9 of the time, ConvNeXt 1.1, transformers the same:
    without batch normalisation a network is left as it is, unless `always`. The values are the same; results differ in
    rounding. Narrow layers that oneDNN computes wrongly in this layout keep the usual one (see `_narrow`), whatever
    layout images come in; `as_stored` undoes all.
    """
    if not always and not any(isinstance(module, _BatchNorm) for module in network.modules()):
        return network
    as_stored(network).to(memory_format=torch.channels_last)
    for layer in network.modules():
        if _narrow(layer):
            layer.to(memory_format=torch.contiguous_format)
            layer.register_forward_pre_hook(_contiguous)
    return network


def as_stored(network: nn.Module) -> nn.Module:
    """`network` itself, in torch's usual layout, without what `channels_last` added to it."""
    for module in network.modules():
        for key in [key for key, hook in module._forward_pre_hooks.items() if hook is _contiguous]:
            del module._forward_pre_hooks[key]
    return network.to(memory_format=torch.contiguous_format)


def _narrow(layer: Any) -> bool:
    """Whether `layer` is a 1 x 1 convolution with a stride and fewer input channels than a register holds.

    The gradient of the weights of such a layer, in float32, channels last, is computed by oneDNN (3.13, in torch 2.15)
    with reads and writes past the end of its buffers: it crashes the process, damages its memory, or gives another
    gradient without a word (4 to 4 and 4 to 16 channels). With AVX-512 (`jit_1x1:avx512_core`) that was seen with fewer
    than 16 inputs, up to 16 outputs and stride 2 on either side, once the output has some 576 positions (24 x 24); with
    AVX2 with fewer than 8 inputs, any number of outputs, strides 2 to 4, and outputs from 3 x 3 on. Probed, each in a
    process of its own with checks of the memory: 1 to 32 channels in, 1 to 64 out, strides 1 to 4, kernels 1 to 5,
    widths 2 to 64, groups, half precision, either operand in the other layout. Either the image or the weight being
    channels last is enough.
    """
    kernel, stride = getattr(layer, "kernel_size", None), getattr(layer, "stride", None)
    if not isinstance(kernel, tuple) or not isinstance(stride, tuple) or len(kernel) != 2:
        return False
    inputs = getattr(layer, "in_channels", None)
    return set(kernel) == {1} and max(stride) > 1 and isinstance(inputs, int) and inputs < REGISTER


def _contiguous(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.contiguous() for each in inputs)
